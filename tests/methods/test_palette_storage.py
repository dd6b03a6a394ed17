"""How palettes are stored: trained, finalized and packaged agree."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from tests.methods.palettes import LAYERS, VARIANTS, batch, palette_of, prepared, stored_value, train

pytestmark = [
    # What `torch.jit.trace` and coremltools' converter of torch 2.14 programs say of themselves.
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def options(request):
    return request.param


def test_trained_finalized_and_stored_agree_to_the_last_bit(options):
    preparation = prepared(**options)
    train(preparation, 3)
    finalized = preparation.finalize()
    preparation.module.eval()
    for name in LAYERS:
        layer = finalized.get_submodule(name)
        assert torch.equal(preparation.module.get_submodule(name).weight, layer.weight)
        assert torch.equal(stored_value(layer), layer.weight)
    assert torch.equal(preparation.module(batch(9)), finalized(batch(9)))


def test_a_weight_takes_no_more_values_than_its_palettes_have():
    preparation = prepared()
    train(preparation, 3)
    finalized = preparation.finalize()
    assert all(len(finalized.get_submodule(name).weight.unique()) == 4 for name in LAYERS)


def test_integer_entries_stand_in_the_metadata():
    preparation = prepared(lut_dtype="u8")
    train(preparation, 1)
    buffers = dict(preparation.finalize()[2].named_buffers())
    assert buffers["_COREML_/weight/compression_type"].tolist() == [2, 3]
    assert int(buffers["_COREML_/weight/quantization_n_bits"]) == 8
    scale, zero = (buffers[f"_COREML_/weight/{name}"] for name in ("quantization_scale", "zero_point"))
    integers = buffers["_COREML_/weight/lut"] / scale + zero
    torch.testing.assert_close(integers, integers.round())
    assert scale.dim() == zero.dim() == 6


@pytest.mark.parametrize("grouped", [False, True])
def test_channels_of_transposed_layers_are_those_of_the_output(grouped):
    module = nn.Sequential(nn.ConvTranspose2d(8, 16, 3))
    options = {"granularity": "per_grouped_channel", "group_size": 4} if grouped else {}
    preparation = prepared(module, cluster_dim=2, enable_per_channel_scale=True, **options)
    preparation.start_training()
    buffers = dict(preparation.finalize()[0].named_buffers())
    assert buffers["_COREML_/weight/lut"].shape == (1, 4 if grouped else 1, 1, 1, 4, 2)
    assert buffers["_COREML_/weight/palettization_scale"].shape == (1, 16, 1, 1)
    assert int(buffers["_COREML_/weight/vector_axis"]) == 1
    assert palette_of(preparation.module, "0").unit == (1, 2)


def test_a_permutation_chooses_another_axis():
    preparation = prepared(
        nn.Sequential(nn.Conv2d(6, 16, 3)),
        cluster_permute=[1, 0, 2, 3],
        granularity="per_grouped_channel",
        group_size=2,
    )
    preparation.start_training()
    layer = preparation.finalize()[0]
    assert dict(layer.named_buffers())["_COREML_/weight/lut"].shape == (1, 3, 1, 1, 4, 1)
    assert all(len(group.unique()) == 4 for group in layer.weight.split(2, dim=1))


def converted(finalized):
    """The operations of the program that coremltools makes of a finalized model."""
    traced = torch.jit.trace(finalized.eval(), torch.zeros(1, 3, 12, 12))
    program = ct.convert(
        traced,
        inputs=[ct.TensorType(name="image", shape=(1, 3, 12, 12))],
        outputs=[ct.TensorType(name="scores")],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        convert_to="milinternal",
    )
    return program.functions["main"]


@pytest.mark.parametrize(
    "name",
    [
        "per tensor",
        "in groups",
        "scaled by channel",
        "vectors",
        "vectors in groups",
        "int8",
        "uint8 in groups",
    ],
)
def test_palettes_reach_the_package(name):
    preparation = prepared(**VARIANTS[name])
    train(preparation, 1)
    finalized = preparation.finalize()
    operations = converted(finalized).find_ops(op_type="constexpr_lut_to_dense")
    assert len(operations) == 3
    for operation, layer in zip(operations, LAYERS, strict=True):
        entries = operation.lut
        if "int8" in name:
            assert entries.op.op_type == "constexpr_blockwise_shift_scale"
            integers = entries.op.data.val
            assert integers.dtype == (np.uint8 if name.startswith("u") else np.int8)
            offset = 0 if entries.op.offset is None else entries.op.offset.val.astype(np.float32)
            stored = (integers.astype(np.float32) - offset) * entries.op.scale.val
        else:
            stored = entries.val
        if "scaled" not in name:
            weight = finalized.get_submodule(layer).weight.detach().numpy()
            assert np.abs(np.unique(weight)[:, None] - stored.reshape(-1)).min(axis=1).max() < 1e-6
