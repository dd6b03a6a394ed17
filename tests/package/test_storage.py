"""How a weight is stored, in typed fields and in words."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil import types

from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.package.granularity import Granularity
from lightning_compress.package.storage import NumberKind, NumberType, Storage, read_storage

FLOAT16 = NumberType(NumberKind.FLOAT, 16)
SHAPE = (8, 4, 3)


@pytest.mark.parametrize(
    ("groups", "text", "which"),
    [
        ((1, 1, 1), "per tensor", "is_per_tensor"),
        ((8, 1, 1), "per channel", "is_per_channel"),
        ((1, 4, 1), "per channel", "is_per_channel"),
        ((4, 1, 1), "groups of 2", "is_grouped"),
        ((1, 2, 1), "blocks of 2", "is_blockwise"),
        ((8, 2, 1), "blocks of 2", "is_blockwise"),
        ((4, 2, 1), "blocks of 2 x 2", "is_blockwise"),
        ((8, 4, 3), "blocks of 1", "is_blockwise"),
    ],
)
def test_a_granularity_is_one_of_four_kinds(groups, text, which):
    granularity = Granularity(SHAPE, groups)
    assert str(granularity) == text
    kinds = ("is_per_tensor", "is_per_channel", "is_grouped", "is_blockwise")
    assert [kind for kind in kinds if getattr(granularity, kind)] == [which]


def stored(build, opset=ct.target.iOS18) -> Storage:
    found = []
    with quiet_conversion():

        @Builder.program(input_specs=[Builder.TensorSpec(shape=(1,))], opset_version=opset)
        def program(x):
            found.append(build())
            return x

    return read_storage(found[0])


def looked_up(entries, groups=(1, 1, 1), vector=1):
    lut = np.zeros((*groups, 4, vector), entries)
    indices = np.zeros(SHAPE, np.uint8).astype(types.np_uint2_dtype)
    keywords = {} if vector == 1 else {"vector_axis": 0}
    return Builder.constexpr_lut_to_dense(indices=indices, lut=lut, **keywords)


def scaled(data, groups, dtype=np.float16, **keywords):
    return Builder.constexpr_blockwise_shift_scale(data=data, scale=np.ones(groups, dtype), **keywords)


def test_a_float_weight_is_dense():
    storage = stored(lambda: Builder.const(val=np.zeros(SHAPE, np.float16)))
    assert storage == Storage(False, None, None, FLOAT16, 192)
    assert (storage.technique, storage.bits, storage.granularity, storage.details) == ("dense", 16, "", ())


def test_a_palette_says_its_groups_its_entries_and_the_length_of_its_vectors():
    storage = stored(lambda: looked_up(np.float16, (4, 1, 1), vector=2))
    palette = storage.palette
    assert (palette.bits, palette.vector_length, palette.entries) == (2, 2, FLOAT16)
    assert palette.granularity == Granularity((16, 4, 3), (4, 1, 1))
    assert not palette.per_channel_scale
    assert (storage.technique, storage.details) == ("palettized", ("vectors of 2",))
    # Two bits an index, and four palettes of four vectors.
    assert storage.stored_bytes == 96 * 2 // 8 + 4 * 4 * 2 * 2


def test_a_scale_for_each_channel_may_follow_the_palette():
    storage = stored(lambda: scaled(looked_up(np.float16), (8, 1, 1)))
    assert storage.palette.per_channel_scale
    assert storage.integers is None
    assert storage.details == ("per-channel scale",)


def test_or_scale_a_palette_of_its_own():
    """As coremltools' converter writes it."""

    def build():
        lut = scaled(np.zeros((8, 1, 1, 4, 1), np.float16), (8, 1, 1, 1, 1))
        indices = np.zeros(SHAPE, np.uint8).astype(types.np_uint2_dtype)
        return Builder.constexpr_lut_to_dense(indices=indices, lut=lut)

    palette = stored(build).palette
    assert palette.per_channel_scale
    assert palette.granularity.is_per_channel
    assert palette.entries == FLOAT16


def test_the_scales_of_int8_palettes_for_groups_are_none_of_channels():
    def build():
        lut = scaled(np.zeros((4, 1, 1, 4, 1), np.int8), (4, 1, 1, 1, 1))
        indices = np.zeros(SHAPE, np.uint8).astype(types.np_uint2_dtype)
        return Builder.constexpr_lut_to_dense(indices=indices, lut=lut)

    storage = stored(build)
    assert not storage.palette.per_channel_scale
    assert (storage.granularity, storage.details) == ("groups of 2", ("int8 palette",))


@pytest.mark.parametrize(("groups", "per_channel"), [((1, 1, 1), False), ((8, 1, 1), True)])
def test_the_one_scale_of_an_int8_palette_is_none_for_each_channel(groups, per_channel):
    storage = stored(lambda: scaled(looked_up(np.int8), groups))
    assert storage.palette.entries == NumberType(NumberKind.SIGNED, 8)
    assert storage.palette.per_channel_scale == per_channel
    assert storage.technique == "palettized + quantized"
    assert storage.details[0] == "int8 palette"


@pytest.mark.parametrize(("dtype", "kind"), [(np.int8, NumberKind.SIGNED), (np.uint8, NumberKind.UNSIGNED)])
@pytest.mark.parametrize("zero_points", [False, True])
def test_integers_say_their_sign_their_blocks_and_whether_there_are_zero_points(dtype, kind, zero_points):
    offset = {"offset": np.zeros((8, 2, 1), dtype)} if zero_points else {}
    storage = stored(lambda: scaled(np.zeros(SHAPE, dtype), (8, 2, 1), **offset))
    assert storage.integers.number == NumberType(kind, 8)
    assert storage.integers.granularity == Granularity(SHAPE, (8, 2, 1))
    assert storage.integers.zero_points == zero_points
    assert (storage.technique, storage.bits, storage.granularity) == ("quantized", 8, "blocks of 2")


def test_the_scales_of_ios16_lie_along_an_axis():
    storage = stored(
        lambda: Builder.constexpr_affine_dequantize(
            quantized_data=np.zeros(SHAPE, np.int8),
            zero_point=np.zeros(4, np.int8),
            scale=np.ones(4, np.float16),
            axis=1,
        ),
        ct.target.iOS16,
    )
    assert storage.integers.granularity == Granularity(SHAPE, (1, 4, 1))


def test_sparse_weights_may_be_anything_besides():
    mask = (np.arange(96) % 2).reshape(SHAPE).astype(types.np_uint1_dtype)
    floats = stored(
        lambda: Builder.constexpr_sparse_to_dense(nonzero_data=np.ones(48, np.float16), mask=mask)
    )
    assert (floats.technique, floats.bits, floats.number, floats.stored_bytes) == ("pruned", 16, FLOAT16, 108)

    def quantized():
        out_mask, data = Builder.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask, nonzero_data=np.ones(48, np.int8), scale=np.ones((8, 1, 1), np.float16)
        )
        return Builder.constexpr_sparse_to_dense(nonzero_data=data, mask=out_mask)

    both = stored(quantized)
    assert both.sparse
    assert both.integers.granularity.is_per_channel
    assert (both.technique, both.bits) == ("pruned + quantized", 8)
