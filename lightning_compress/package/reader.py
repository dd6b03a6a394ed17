"""Open a Core ML package and check that what it holds can be read, before any of it is used."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coremltools import proto
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from lightning_compress.errors import PackageError

_NEURAL_NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")
_PIPELINES = ("pipeline", "pipelineClassifier", "pipelineRegressor")

# A blob starts with a record of its own: sentinel, data type, bytes, offset of the data.
_BLOB_RECORD = struct.Struct("<IIQQ")
_BLOB_SENTINEL = 0xDEADBEEF


@dataclass(frozen=True)
class PackageContents:
    """What a package holds: its path, its specification (a `Model` message) and its weight folder."""

    path: Path
    specification: Any
    weights: Path


def read_package(path: str | os.PathLike[str]) -> PackageContents:
    """Read a `.mlpackage` folder; nothing in it is executed.

    Raises:
        PackageError: when the path is missing or is no package, the model is an older neural network, is
            compiled, encrypted or damaged, or a weight file is missing or shorter than the program says.
    """
    package = Path(path)
    if not package.exists():
        raise PackageError(f"There is no Core ML package at {package}.")
    if package.is_file():
        raise _file_error(package)
    if (package / "encryptionInfo").exists():
        raise PackageError(f"{package} is an encrypted compiled model. Load the .mlpackage it was made from.")
    if package.suffix == ".mlmodelc" or (package / "coremldata.bin").exists():
        raise PackageError(f"{package} is a compiled model. Load the .mlpackage it was compiled from.")

    model_file = _root_model(package)
    specification = _parse(model_file, package)
    kind = specification.WhichOneof("Type")
    if kind in _NEURAL_NETWORKS:
        raise PackageError(_neural_network_message(package))
    if kind != "mlProgram" and kind not in _PIPELINES:
        raise PackageError(
            f"{package} holds a model of type {kind!r}. Valid types: 'mlProgram', and pipelines of them."
        )
    contents = PackageContents(package, specification, model_file.parent / "weights")
    for program in programs_of(specification):
        _check_weight_files(program, contents)
    return contents


def models_of(specification: Any) -> list[Any]:
    """The models of a pipeline, in order; empty for any other model."""
    kind = specification.WhichOneof("Type")
    if kind == "pipeline":
        return list(specification.pipeline.models)
    return list(getattr(specification, kind).pipeline.models) if kind in _PIPELINES else []


def suppression_of(pipeline: Any) -> Any | None:
    """The `Model` message of the suppression that ends a pipeline's specification, or None."""
    models = pipeline.pipeline.models
    if len(models) == 2 and models[1].WhichOneof("Type") == "nonMaximumSuppression":
        return models[1]
    return None


def programs_of(specification: Any) -> Iterator[Any]:
    """Every ML Program (`MILSpec.Program`) in a specification, pipelines followed to their ends."""
    if specification.WhichOneof("Type") == "mlProgram":
        yield specification.mlProgram
    for model in models_of(specification):
        yield from programs_of(model)


def operations_of(program: Any) -> Iterator[Any]:
    """Every operation message of a program, those of nested blocks included."""
    for function in program.functions.values():
        for block in function.block_specializations.values():
            yield from _block_operations(block)


def _block_operations(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        for nested in operation.blocks:
            yield from _block_operations(nested)


def _file_error(path: Path) -> PackageError:
    if path.suffix == ".mlmodel":
        kind = _parse(path, path).WhichOneof("Type")
        if kind in _NEURAL_NETWORKS:
            return PackageError(_neural_network_message(path))
        return PackageError(
            f"{path} is a single-file model of type {kind!r}; only .mlpackage folders are read."
        )
    return PackageError(f"{path} is a file, not a Core ML package: a package is a folder named .mlpackage.")


def _neural_network_message(path: Path) -> str:
    return (
        f"{path} holds an older neural-network model. Convert it again with "
        "coremltools.convert(..., convert_to='mlprogram') to make an ML Program."
    )


def _root_model(package: Path) -> Path:
    """The specification file that the package's manifest names."""
    manifest_file = package / "Manifest.json"
    if not manifest_file.is_file():
        raise PackageError(f"{package} is not a Core ML package: it has no Manifest.json.")
    try:
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        relative = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError) as error:
        raise PackageError(f"{manifest_file} is damaged: it names no root model.") from error
    data = (package / "Data").resolve()
    model_file = (data / str(relative)).resolve()
    if not model_file.is_relative_to(data):
        raise PackageError(f"{manifest_file} names a model outside its package: {relative!r}.")
    if not model_file.is_file():
        raise PackageError(f"{package} is incomplete: its model file {relative!r} is missing.")
    return model_file


def _parse(model_file: Path, package: Path) -> Any:
    specification = proto.Model_pb2.Model()
    message = (
        f"The model in {package} cannot be read: {model_file.name} is damaged or encrypted. "
        "Export it again, without encryption."
    )
    try:
        specification.ParseFromString(model_file.read_bytes())
    except DecodeError as error:
        raise PackageError(message) from error
    if specification.specificationVersion < 1 or specification.WhichOneof("Type") is None:
        raise PackageError(message)
    return specification


def _check_weight_files(program: Any, contents: PackageContents) -> None:
    """Raise unless each weight that the program points to lies whole inside its file.

    coremltools maps the file into memory and trusts the offsets, so a truncated file has to be found before it
    reads.
    """
    sizes: dict[str, int] = {}
    for operation in operations_of(program):
        for value in _values(operation):
            if value.WhichOneof("value") != "blobFileValue":
                continue
            blob = value.blobFileValue
            name = blob.fileName.split("/")[-1]
            file = contents.weights / name
            if name not in sizes:
                if not file.is_file():
                    raise PackageError(f"{contents.path} is incomplete: its weight file {name!r} is missing.")
                sizes[name] = file.stat().st_size
            _check_blob(file, sizes[name], blob.offset, operation, contents.path)


def _values(operation: Any) -> Iterator[Any]:
    yield from operation.attributes.values()
    for argument in operation.inputs.values():
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "value":
                yield binding.value


def _check_blob(file: Path, size: int, offset: int, operation: Any, package: Path) -> None:
    output = operation.outputs[0].name if operation.outputs else operation.type
    where = f"weight {output!r} of {package}"
    if offset + _BLOB_RECORD.size > size:
        raise PackageError(
            f"The weight file {file.name!r} is truncated: {where} starts at byte {offset} of {size}. "
            "Export or copy the package again."
        )
    with file.open("rb") as stream:
        stream.seek(offset)
        sentinel, _, length, start = _BLOB_RECORD.unpack(stream.read(_BLOB_RECORD.size))
    if sentinel != _BLOB_SENTINEL:
        raise PackageError(
            f"The weight file {file.name!r} is damaged: no weight record for {where} at byte {offset}."
        )
    if start + length > size:
        raise PackageError(
            f"The weight file {file.name!r} is truncated: {where} ends at byte {start + length} of {size}. "
            "Export or copy the package again."
        )
