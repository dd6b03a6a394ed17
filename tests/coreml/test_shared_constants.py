"""Operations of a package share the small constants that say how they work, and compute what they did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import coremltools as ct
import pytest
import torch
from coremltools.converters.mil.mil import Builder
from coremltools.proto.MIL_pb2 import BOOL, STRING
from torch import nn

from lightning_compress import CoreMLExport
from lightning_compress.coreml import palettize_package
from lightning_compress.coreml.convert import convert
from lightning_compress.coreml.programs import blocks_of
from lightning_compress.coreml.shared_constants import ShareConstants
from lightning_compress.runtime import load

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Hardswish(), nn.MaxPool2d(2)) for _ in range(4)]
    return nn.Sequential(*layers, nn.Softmax(dim=1)).eval()


def constants(model: Any) -> Iterator[tuple[str, bytes]]:
    """Names and values of a program's constants of numbers, but for those in the file of weights."""
    (function,) = model.get_spec().mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    for operation in block.operations:
        value = operation.attributes["val"]
        kind = value.type.tensorType.dataType
        if operation.type == "const" and not value.HasField("blobFileValue") and kind not in (BOOL, STRING):
            yield operation.outputs[0].name, value.SerializeToString()


def repeated(model: Any) -> int:
    return sum(count - 1 for count in Counter(value for _, value in constants(model)).values())


@pytest.mark.filterwarnings("ignore")
def without_sharing() -> Any:
    traced = torch.jit.trace(network(), torch.rand(1, 8, 32, 32))
    return ct.convert(
        traced,
        inputs=[ct.TensorType(shape=(1, 8, 32, 32))],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )


@pytest.mark.filterwarnings("ignore")
def test_coremltools_still_repeats_them():
    """Once this fails, `lightning_compress/coreml/shared_constants.py` is no longer needed."""
    assert repeated(without_sharing()) > 10


@pytest.mark.filterwarnings("ignore")
def test_each_number_stands_once_in_a_program_which_is_smaller_for_it():
    model = convert(network(), torch.rand(1, 8, 32, 32), target=ct.target.iOS18)
    assert len(list(constants(model)))
    assert repeated(model) == 0
    assert model.get_spec().ByteSize() < 0.8 * without_sharing().get_spec().ByteSize()


def test_a_package_computes_the_same(tmp_path):
    inputs = torch.rand(1, 8, 32, 32)
    CoreMLExport(tmp_path / "net.mlpackage").run(network(), inputs)
    (output,) = load(tmp_path / "net.mlpackage", precision="float32")(inputs).values()
    assert torch.allclose(output, network()(inputs), atol=2e-3)


@pytest.mark.filterwarnings("ignore")
def test_parameters_that_are_alike_keep_a_name_each():
    alike = network()
    for layer in alike[:4]:
        nn.init.zeros_(layer[0].bias)
    model = convert(alike, torch.rand(1, 8, 32, 32), target=ct.target.iOS18)
    assert {f"var_{layer}_0_bias_to_fp16" for layer in range(4)} <= {name for name, _ in constants(model)}


@pytest.mark.filterwarnings("ignore")
def test_a_program_that_somebody_else_made_shares_them_once_it_is_compressed(tmp_path):
    model = without_sharing()
    model.save(str(tmp_path / "other.mlpackage"))
    compressed = palettize_package(tmp_path / "other.mlpackage", [4], weight_threshold=0)[4]
    assert repeated(model) > 10
    assert repeated(compressed) == 0
    inputs = torch.rand(1, 8, 32, 32)
    compressed.save(str(tmp_path / "compressed.mlpackage"))
    (one,) = load(tmp_path / "other.mlpackage")(inputs).values()
    (other,) = load(tmp_path / "compressed.mlpackage")(inputs).values()
    assert torch.allclose(one, other, atol=0.05)


def test_a_nested_block_keeps_constants_of_its_own():
    @Builder.program(input_specs=[Builder.TensorSpec(shape=(1, 4))], opset_version=ct.target.iOS17)
    def program(x: Any) -> Any:
        def reduced() -> Any:
            return Builder.reduce_sum(
                x=Builder.reduce_max(x=x, axes=[1], keep_dims=True), axes=[1], keep_dims=True
            )

        return Builder.cond(
            pred=Builder.greater(x=Builder.squeeze(x=reduced()), y=0.0),
            _true_fn=reduced,
            _false_fn=lambda: Builder.reduce_min(x=x, axes=[1], keep_dims=True),
        )

    def constants_of(block: Any) -> int:
        return sum(operation.op_type == "const" for operation in block.operations)

    before = [constants_of(block) for block in blocks_of(program)]
    ShareConstants().apply(program)
    program.validate(check_essential_scope=False)
    outer, *nested = [constants_of(block) for block in blocks_of(program)]
    # The axis, whether it is kept for each of the two, and the zero.
    assert outer == 4 < before[0]
    assert sorted(nested) == [2, 3]
