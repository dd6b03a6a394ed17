"""Compressed constants decompress to what coremltools' own operations say, for random shapes and contents."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil import types
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.package.constexpr import decompressed, unpacked

seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.sampled_from([2, 4, 6]), min_size=2, max_size=4).map(tuple)
few = settings(max_examples=25, deadline=None)


def constant(build, opset=ct.target.iOS18):
    """The output of what `build` adds to an otherwise empty program."""
    found = []

    @Builder.program(input_specs=[Builder.TensorSpec(shape=(1,))], opset_version=opset)
    def program(x):
        found.append(build())
        return x

    return found[0]


def expect(variable):
    with quiet_conversion():
        return variable.op.materialized_val_inference()


@few
@given(seeds, shapes, st.sampled_from([1, 2, 3, 4, 6, 8]), st.booleans())
def test_palettes_of_ios18(seed, shape, n_bits, grouped):
    random = np.random.default_rng(seed)
    groups = (2, *(1 for _ in shape[1:])) if grouped else tuple(1 for _ in shape)
    lut = random.normal(size=(*groups, 2**n_bits, 1)).astype(np.float16)
    indices = random.integers(0, 2**n_bits, shape).astype(
        types.nptype_from_builtin(types.string_to_builtin(f"uint{n_bits}"))
    )
    variable = constant(lambda: Builder.constexpr_lut_to_dense(indices=indices, lut=lut))
    np.testing.assert_array_equal(decompressed(variable), expect(variable))


@few
@given(seeds, shapes, st.sampled_from([2, 3]), st.data())
def test_palettes_of_vectors(seed, shape, vector, data):
    random = np.random.default_rng(seed)
    axis = data.draw(st.integers(0, len(shape) - 1))
    lut = random.normal(size=(*(1 for _ in shape), 4, vector)).astype(np.float16)
    indices = random.integers(0, 4, shape).astype(types.np_uint2_dtype)
    variable = constant(
        lambda: Builder.constexpr_lut_to_dense(indices=indices, lut=lut, vector_axis=np.int32(axis))
    )
    np.testing.assert_array_equal(decompressed(variable), expect(variable))


@few
@given(seeds, shapes, st.sampled_from([np.int8, np.uint8]), st.booleans(), st.data())
def test_quantized_blocks_of_ios18(seed, shape, dtype, with_offset, data):
    random = np.random.default_rng(seed)
    counts = tuple(data.draw(st.sampled_from([1, extent // 2, extent])) for extent in shape)
    limits = np.iinfo(dtype)
    values = random.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
    scale = random.uniform(0.1, 2, counts).astype(np.float16)
    offset = (
        random.integers(limits.min, limits.max, counts, endpoint=True).astype(dtype) if with_offset else None
    )
    variable = constant(
        lambda: Builder.constexpr_blockwise_shift_scale(data=values, scale=scale, offset=offset)
    )
    np.testing.assert_array_equal(decompressed(variable), expect(variable))


@few
@given(seeds, shapes, st.floats(0, 1))
def test_sparse_weights_of_ios18(seed, shape, sparsity):
    random = np.random.default_rng(seed)
    mask = (random.uniform(size=shape) >= sparsity).astype(types.np_uint1_dtype)
    mask.flat[0] = 1
    values = random.normal(size=int((mask != 0).sum())).astype(np.float16)
    variable = constant(lambda: Builder.constexpr_sparse_to_dense(nonzero_data=values, mask=mask))
    np.testing.assert_array_equal(decompressed(variable), expect(variable))


@few
@given(seeds, shapes, st.floats(0, 1), st.sampled_from([1, 2]))
def test_sparse_palettes(seed, shape, sparsity, vector):
    random = np.random.default_rng(seed)
    mask = (random.uniform(size=shape) >= sparsity).astype(types.np_uint1_dtype)
    mask.flat[0] = 1
    lut = random.normal(size=(*(1 for _ in shape), 4, vector)).astype(np.float16)
    indices = random.integers(0, 4, int((mask != 0).sum())).astype(types.np_uint2_dtype)

    def build():
        out_mask, values = Builder.constexpr_lut_to_sparse(
            indices_mask=mask,
            indices_nonzero_data=indices,
            lut=lut,
            vector_axis=np.int32(0) if vector > 1 else None,
        )
        return Builder.constexpr_sparse_to_dense(nonzero_data=values, mask=out_mask)

    variable = constant(build)
    np.testing.assert_array_equal(decompressed(variable), expect(variable))


@few
@given(seeds, shapes, st.floats(0, 1))
def test_sparse_quantized_weights(seed, shape, sparsity):
    random = np.random.default_rng(seed)
    mask = (random.uniform(size=shape) >= sparsity).astype(types.np_uint1_dtype)
    mask.flat[0] = 1
    data = random.integers(-128, 127, int((mask != 0).sum())).astype(np.int8)
    scale = random.uniform(0.1, 2, (shape[0], *(1 for _ in shape[1:]))).astype(np.float16)

    def build():
        out_mask, values = Builder.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask, nonzero_data=data, scale=scale
        )
        return Builder.constexpr_sparse_to_dense(nonzero_data=values, mask=out_mask)

    variable = constant(build)
    np.testing.assert_array_equal(decompressed(variable), expect(variable))


@few
@given(seeds, shapes, st.sampled_from([1, 2, 4, 6, 8]))
def test_palettes_of_ios16(seed, shape, n_bits):
    random = np.random.default_rng(seed)
    lut = random.normal(size=2**n_bits).astype(np.float16)
    packed = random.integers(0, 256, -(-int(np.prod(shape)) * n_bits // 8)).astype(np.uint8)
    variable = constant(
        lambda: Builder.constexpr_lut_to_dense(indices=packed, lut=lut, shape=np.uint32(shape)),
        ct.target.iOS16,
    )
    np.testing.assert_array_equal(decompressed(variable), expect(variable))


@few
@given(seeds, shapes, st.floats(0, 1))
def test_sparse_weights_of_ios16(seed, shape, sparsity):
    random = np.random.default_rng(seed)
    mask = random.uniform(size=shape) >= sparsity
    mask.flat[0] = True
    values = random.normal(size=int(mask.sum())).astype(np.float16)
    variable = constant(
        lambda: Builder.constexpr_sparse_to_dense(
            nonzero_data=values, mask=np.packbits(mask, bitorder="little"), shape=np.uint32(shape)
        ),
        ct.target.iOS16,
    )
    np.testing.assert_array_equal(decompressed(variable), expect(variable))


@few
@given(seeds, shapes, st.sampled_from([np.int8, np.uint8]), st.booleans(), st.data())
def test_quantized_weights_of_ios16(seed, shape, dtype, per_channel, data):
    random = np.random.default_rng(seed)
    axis = data.draw(st.integers(0, len(shape) - 1))
    limits = np.iinfo(dtype)
    values = random.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
    size = shape[axis] if per_channel else ()
    scale = random.uniform(0.1, 2, size).astype(np.float16)
    zero_point = random.integers(limits.min, limits.max, size, endpoint=True).astype(dtype)
    variable = constant(
        lambda: Builder.constexpr_affine_dequantize(
            quantized_data=values, scale=np.float16(scale), zero_point=dtype(zero_point), axis=np.int32(axis)
        ),
        ct.target.iOS16,
    )
    np.testing.assert_allclose(decompressed(variable), expect(variable), rtol=1e-3)


def test_a_palette_that_is_itself_compressed_is_read_which_coremltools_cannot():
    lut = np.arange(4, dtype=np.int8).reshape(1, 1, 4, 1)
    scale = np.full((1, 1, 1, 1), 0.5, dtype=np.float16)
    indices = np.array([[0, 1], [2, 3]]).astype(types.np_uint2_dtype)
    variable = constant(
        lambda: Builder.constexpr_lut_to_dense(
            indices=indices, lut=Builder.constexpr_blockwise_shift_scale(data=lut, scale=scale)
        )
    )
    np.testing.assert_array_equal(decompressed(variable), [[0, 0.5], [1, 1.5]])
    with pytest.raises(AttributeError):
        expect(variable)


@given(st.lists(st.integers(0, 63), min_size=1), st.just(6))
def test_indices_are_unpacked_least_significant_bit_first(numbers, n_bits):
    stream = sum(number << (n_bits * place) for place, number in enumerate(numbers))
    packed = np.frombuffer(stream.to_bytes(-(-n_bits * len(numbers) // 8), "little"), dtype=np.uint8)
    assert unpacked(packed, n_bits, len(numbers)).tolist() == numbers
