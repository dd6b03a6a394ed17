"""Compressed constants against what coremltools itself decompresses them to, bit for bit."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - coremltools' own name for it
from coremltools.converters.mil.mil import Function, types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FEW = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

seeds = st.integers(0, 2**16)
floats = st.sampled_from([np.float16, np.float32])


def packed_type(name):
    return types.nptype_from_builtin(types.string_to_builtin(name))


def integers(seed, name, shape):
    bits = int(name.removeprefix("u").removeprefix("int"))
    low, high = (0, 2**bits) if name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return np.random.default_rng(seed).integers(low, high, shape).astype(packed_type(name))


def normal(seed, shape, dtype):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def check(programs, body, target):
    """The runtime's dense constant, in its stored type, is coremltools' own."""
    with Function({}, opset_version=target):
        expected = np.asarray(body().op.materialized_val_inference())
    x = np.zeros(1, expected.dtype if expected.dtype.kind == "f" else np.float32)

    def use(x):
        weight = body()
        return mb.add(x=x, y=weight if expected.dtype.kind == "f" else mb.cast(x=weight, dtype="fp32"))

    module = programs.build(use, {"x": x}, target=target, precision="float16")
    dense = module(torch.from_numpy(x)).popitem()[1].numpy()
    assert dense.dtype == x.dtype
    np.testing.assert_array_equal(dense, expected)
    if expected.dtype.kind == "f":
        (weight,) = module.decompressed_weights().values()
        assert weight.numpy().dtype == expected.dtype
        np.testing.assert_array_equal(weight.numpy(), expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
@FEW
@given(seed=seeds, shape=st.lists(st.integers(1, 6), min_size=1, max_size=4), dtype=floats)
def test_ios16_palettes(programs, bits, seed, shape, dtype):
    count = int(np.prod(shape))
    indices = np.random.default_rng(seed).integers(0, 256, int(np.ceil(bits * count / 8))).astype(np.uint8)
    lut = normal(seed, 2**bits, dtype)
    body = lambda: mb.constexpr_lut_to_dense(indices=indices, lut=lut, shape=np.array(shape, np.uint32))  # noqa: E731
    check(programs, body, ct.target.iOS16)


@FEW
@given(seed=seeds, shape=st.lists(st.integers(1, 6), min_size=1, max_size=4), dtype=floats)
def test_ios16_sparse(programs, seed, shape, dtype):
    mask = np.random.default_rng(seed).random(int(np.prod(shape))) > 0.4
    values = normal(seed, int(mask.sum()), dtype)
    packed = np.packbits(mask, bitorder="little")
    body = lambda: mb.constexpr_sparse_to_dense(  # noqa: E731
        nonzero_data=values, mask=packed, shape=np.array(shape, np.uint32)
    )
    check(programs, body, ct.target.iOS16)


@FEW
@given(seed=seeds, axis=st.integers(-3, 2), signed=st.booleans(), vector=st.booleans(), dtype=floats)
def test_ios16_affine(programs, seed, axis, signed, vector, dtype):
    name, shape = "int8" if signed else "uint8", (2, 3, 4)
    size = (shape[axis],) if vector else ()
    body = lambda: mb.constexpr_affine_dequantize(  # noqa: E731
        quantized_data=integers(seed, name, shape),
        zero_point=integers(seed + 1, name, size),
        scale=normal(seed + 2, size, dtype),
        axis=axis,
    )
    check(programs, body, ct.target.iOS16)


@FEW
@given(seed=seeds)
def test_casts(programs, seed):
    check(
        programs,
        lambda: mb.constexpr_cast(source_val=normal(seed, (2, 3), np.float16), output_dtype="fp32"),
        ct.target.iOS16,
    )


@pytest.mark.parametrize("name", ["uint1", "uint2", "uint3", "uint4", "uint6", "uint8"])
@FEW
@given(
    seed=seeds,
    groups=st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 3, 1), (2, 3, 1), (4, 1, 2)]),
    width=st.sampled_from([1, 1, 2, 4]),
    vector_axis=st.integers(-3, 2),
    dtype=st.sampled_from([np.float16, np.float32, np.int8]),
)
def test_ios18_palettes(programs, name, seed, groups, width, vector_axis, dtype):
    entries = 2 ** int(name.removeprefix("uint"))
    lut = (normal(seed + 1, (*groups, entries, width), np.float32) * 40).astype(dtype)
    body = lambda: mb.constexpr_lut_to_dense(  # noqa: E731
        indices=integers(seed, name, (4, 3, 2)),
        lut=lut,
        **({"vector_axis": vector_axis} if width > 1 else {}),
    )
    check(programs, body, ct.target.iOS18)


@pytest.mark.parametrize("name", ["int4", "uint4", "int8", "uint8"])
@FEW
@given(
    seed=seeds,
    blocks=st.sampled_from([(1, 1, 1), (4, 1, 1), (2, 3, 1), (1, 1, 2), (4, 6, 2)]),
    shifted=st.booleans(),
    dtype=floats,
)
def test_ios18_blockwise(programs, name, seed, blocks, shifted, dtype):
    offset = {"offset": integers(seed + 1, name, blocks)} if shifted else {}
    body = lambda: mb.constexpr_blockwise_shift_scale(  # noqa: E731
        data=integers(seed, name, (4, 6, 2)), scale=normal(seed + 2, blocks, dtype), **offset
    )
    check(programs, body, ct.target.iOS18)


@FEW
@given(seed=seeds, dtype=floats)
def test_ios18_sparse(programs, seed, dtype):
    mask = integers(seed, "uint1", (4, 3, 2))
    values = normal(seed, int(mask.sum()), dtype)
    check(programs, lambda: mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask), ct.target.iOS18)


@FEW
@given(seed=seeds, vector=st.booleans(), axis=st.integers(0, 2), dtype=floats)
def test_sparse_palettes(programs, seed, vector, axis, dtype):
    mask = integers(seed, "uint1", (4, 3, 2))
    lut = normal(seed, (2, 1, 1, 4, 2 if vector else 1), dtype)

    def body():
        sparse_mask, values = mb.constexpr_lut_to_sparse(
            indices_mask=mask,
            indices_nonzero_data=integers(seed, "uint2", int(mask.sum())),
            lut=lut,
            **({"vector_axis": axis} if vector else {}),
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=sparse_mask)

    check(programs, body, ct.target.iOS18)


@FEW
@given(seed=seeds, shifted=st.booleans(), dtype=floats)
def test_sparse_quantized(programs, seed, shifted, dtype):
    mask = integers(seed, "uint1", (4, 6, 2))

    def body():
        sparse_mask, values = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask,
            nonzero_data=integers(seed, "int8", int(mask.sum())),
            scale=normal(seed, (4, 1, 1), dtype),
            **({"offset": integers(seed + 1, "int8", (4, 1, 1))} if shifted else {}),
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=sparse_mask)

    check(programs, body, ct.target.iOS18)


@FEW
@given(seed=seeds, dtype=floats)
def test_palettes_of_int8_with_a_scale(programs, seed, dtype):
    lut = integers(seed, "int8", (1, 1, 1, 16, 1))

    def body():
        dense = mb.constexpr_lut_to_dense(indices=integers(seed, "uint4", (4, 3, 2)), lut=lut)
        return mb.constexpr_blockwise_shift_scale(data=dense, scale=normal(seed, (4, 1, 1), dtype))

    check(programs, body, ct.target.iOS18)


def test_a_compressed_weight_keeps_its_parts_in_the_state(programs):
    lut = np.array([1, 2, 3, 4], np.float16)
    indices = np.array([0b11100100, 0b00011011], np.uint8)
    body = lambda x: mb.add(  # noqa: E731
        x=x,
        y=mb.constexpr_lut_to_dense(
            indices=indices, lut=lut, shape=np.array([2, 4], np.uint32), name="weight"
        ),
    )
    module = programs.build(body, {"x": np.zeros(1, np.float16)}, target=ct.target.iOS16)
    state = module.state_dict()
    assert state["constants.weight.indices"].tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]
    assert state["constants.weight.lut"].flatten().tolist() == [1, 2, 3, 4]
    assert module.decompressed_weights()["weight"].tolist() == [[1, 2, 3, 4], [4, 3, 2, 1]]
    # Loading another palette is seen by the next run.
    module(torch.zeros(1))
    module.load_state_dict({**state, "constants.weight.lut": state["constants.weight.lut"] * 10})
    assert module(torch.zeros(1)).popitem()[1].tolist() == [[10, 20, 30, 40], [40, 30, 20, 10]]
