"""What is wrong with a package is said, and nothing outside of it is read."""

from __future__ import annotations

import json
import os
import shutil

import coremltools as ct
import pytest
import torch

from lightning_compress import runtime
from lightning_compress.errors import CompressionError, PackageError
from lightning_compress.package.inspection import inspect
from tests.package.damaging import model_file, weight_file


def refused(package, message):
    for read in (inspect, runtime.load):
        with pytest.raises(PackageError, match=message):
            read(package)


@pytest.mark.parametrize("name", ["weight.bin", "model.mlmodel", "Manifest.json", "weights", "Data"])
def test_a_link_to_outside_is_refused(package, tmp_path, name):
    target = next(package.rglob(name))
    shutil.move(target, tmp_path / "elsewhere")
    target.symlink_to(tmp_path / "elsewhere")
    refused(package, "outside its package")


def test_a_link_to_a_package_and_links_inside_it_are_followed(package, tmp_path):
    (package / "Data" / "kept.bin").write_bytes(weight_file(package).read_bytes())
    target = weight_file(package)
    target.unlink()
    target.symlink_to("../../kept.bin")
    (tmp_path / "link.mlpackage").symlink_to(package)
    assert inspect(tmp_path / "link.mlpackage").layers
    runtime.load(tmp_path / "link.mlpackage")


@pytest.mark.parametrize("name", ["weight.bin", "model.mlmodel", "Manifest.json", "weights", "Data"])
def test_a_loop_of_links_is_refused(package, name):
    target = next(package.rglob(name))
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    target.symlink_to(target.name)
    refused(package, "incomplete|is not a Core ML package|outside its package")


@pytest.mark.parametrize("path", ["", "nul\0.mlpackage"])
def test_a_path_that_none_can_be_is_refused(path):
    for read in (inspect, runtime.load):
        with pytest.raises(
            CompressionError, match="valid is a path|no Core ML package|is not a Core ML package"
        ):
            read(path)


@pytest.mark.parametrize("path", ["\ud800.mlpackage", "n" * 300, "n/" * 3000, "~nobody-of-this-name"])
def test_a_path_that_can_be_none_is_refused(path):
    refused(path, "There is no Core ML package|is not a Core ML package")


def test_a_model_file_of_5_gb_is_refused_before_it_is_read(package):
    os.truncate(model_file(package), 5 * 10**9)
    refused(package, r"has 5,000,000,000 bytes, and a specification of an ML Program .* at most")
    os.truncate(package / "Manifest.json", 10**9)
    refused(package, r"Manifest\.json has 1,000,000,000 bytes, and a manifest")


def test_a_single_model_file_of_5_gb_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "net.mlmodel").touch()
    os.truncate(tmp_path / "net.mlmodel", 5 * 10**9)
    refused(tmp_path / "net.mlmodel", "has 5,000,000,000 bytes")


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'{"itemInfoEntries":' * 50_000, b"null", b"\xff", b'{"rootModelIdentifier":{}}']
)
def test_a_manifest_of_something_else_names_no_root_model(package, text):
    (package / "Manifest.json").write_bytes(text)
    refused(package, "is damaged: it names no root model")


@pytest.mark.parametrize("path", [7, ["x"], {"a": {"b": {}}}, "nul\0", None])
def test_a_manifest_with_a_path_of_another_kind_shows_it(package, path):
    manifest = json.loads((package / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = path
    (package / "Manifest.json").write_text(json.dumps(manifest))
    refused(package, "the path of its root model is")


def change(package, mutation):
    specification = ct.utils.load_spec(str(model_file(package)))
    program = specification.mlProgram
    function = program.functions["main"]
    mutation(specification, program, function, function.block_specializations[function.opset])
    model_file(package).write_bytes(specification.SerializeToString())


def operation(block, op_type):
    return next(operation for operation in block.operations if operation.type == op_type)


def weight(block):
    return next(
        value
        for operation in block.operations
        for value in operation.attributes.values()
        if value.WhichOneof("value") == "blobFileValue"
    )


@pytest.mark.parametrize(
    ("mutation", "message"),
    [
        (lambda s, p, f, b: p.functions.clear(), "its program has no functions"),
        (lambda s, p, f, b: f.block_specializations.clear(), "no block for its operation set"),
        (lambda s, p, f, b: b.ClearField("outputs"), "returns nothing"),
        (lambda s, p, f, b: b.outputs.append("ghost"), "it returns 'ghost', which no operation makes"),
        (
            lambda s, p, f, b: setattr(operation(b, "conv").inputs["x"].arguments[0], "name", "ghost"),
            r"operand 'x' of operation '.*' of type 'conv' is 'ghost', which nothing before it makes",
        ),
        (
            lambda s, p, f, b: operation(b, "conv").inputs["x"].ClearField("arguments"),
            "operand 'x' of .* has no value",
        ),
        (lambda s, p, f, b: operation(b, "conv").ClearField("outputs"), "has no outputs"),
        (
            lambda s, p, f, b: setattr(operation(b, "conv").outputs[0].type.tensorType, "dataType", 99),
            "numbers of the unknown type 99",
        ),
        (
            lambda s, p, f, b: setattr(operation(b, "conv").outputs[0].type.tensorType, "rank", 7),
            "rank 7 and 4 dimensions",
        ),
        (
            lambda s, p, f, b: setattr(
                operation(b, "conv").outputs[0].type.tensorType.dimensions[0].constant, "size", 2**40
            ),
            "a tensor of more than 2,147,483,648 elements",
        ),
        (
            lambda s, p, f, b: setattr(weight(b).type.tensorType.dimensions[0].constant, "size", 9),
            r"declares the shape \[9, .*, and its record holds",
        ),
        (
            lambda s, p, f, b: setattr(weight(b).type.tensorType, "dataType", 11),
            "declares the type FLOAT32, number 2 in weight files, and its record says 1",
        ),
        (
            lambda s, p, f, b: setattr(weight(b).blobFileValue, "fileName", "n" * 300),
            "weight file 'nnn.* is missing",
        ),
        (
            lambda s, p, f, b: setattr(weight(b).blobFileValue, "fileName", "@model_path/weights/.."),
            "is missing",
        ),
        (lambda s, p, f, b: setattr(s, "specificationVersion", 99), "version 99 of Core ML's specification"),
        (
            lambda s, p, f, b: setattr(s.description.input[0], "name", ""),
            "describes the inputs '' of function 'main', which takes 'input'",
        ),
        (
            lambda s, p, f, b: setattr(operation(b, "relu"), "type", "program"),
            r"does not (know|compute): 'program' \(1 times\)",
        ),
        (
            lambda s, p, f, b: operation(b, "conv").inputs.pop("weight"),
            "cannot be read: operation '.*' of type 'conv': ",
        ),
    ],
)
def test_what_is_wrong_with_a_program_is_said(package, mutation, message):
    change(package, mutation)
    refused(package, message)


def test_a_tensor_of_gigabytes_that_a_few_bytes_ask_for_is_not_made(package):
    def fill(specification, program, function, block):
        shape = block.operations.add(type="const")
        shape.attributes["val"].CopyFrom(
            ct.proto.MIL_pb2.Value(
                type=tensor_type(ct.proto.MIL_pb2.INT32, 2),
                immediateValue={"tensor": {"ints": {"values": [2**15, 2**15]}}},
            )
        )
        value = block.operations.add(type="const")
        value.attributes["val"].CopyFrom(
            ct.proto.MIL_pb2.Value(
                type=tensor_type(ct.proto.MIL_pb2.FLOAT32),
                immediateValue={"tensor": {"floats": {"values": [1.0]}}},
            )
        )
        filled = block.operations.add(type="fill")
        for operation, name, kind in (
            (shape, "shape", tensor_type(ct.proto.MIL_pb2.INT32, 2)),
            (value, "value", tensor_type(ct.proto.MIL_pb2.FLOAT32)),
            (filled, "filled", tensor_type(ct.proto.MIL_pb2.FLOAT32, 2**15, 2**15)),
        ):
            operation.outputs.add(name=name, type=kind)
        for name in ("shape", "value"):
            filled.inputs[name].arguments.add(name=name)

    def tensor_type(number, *shape):
        kind = ct.proto.MIL_pb2.ValueType()
        kind.tensorType.dataType, kind.tensorType.rank = number, len(shape)
        for size in shape:
            kind.tensorType.dimensions.add().constant.size = size
        return kind

    change(package, fill)
    most = peak_bytes(package)
    assert most < 2**30


def peak_bytes(package):
    """How much memory a process of its own has taken at most after it has inspected and loaded a package."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        import resource

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        inspect(package)
        runtime.load(package)
        used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        os.write(writer, str(used).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    assert status == 0
    return int(os.read(reader, 100))


def test_an_operation_that_torch_cannot_compute_is_named(package):
    def shrink(specification, program, function, block):
        tensor = operation(block, "const")
        for item in block.operations:
            if item.type == "const" and item.outputs[0].name.endswith("strides_0"):
                tensor = item
        tensor.attributes["val"].immediateValue.tensor.ints.values[0] = 0

    change(package, shrink)
    with pytest.raises(PackageError, match=r"operation '.*' of type '.*'"):
        runtime.load(package)(torch.rand(1, 1, 8, 8))
