"""Indices of palettes from the values that they look up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.coreml.metadata_buffers import Metadata
from lightning_compress.coreml.recovery import compressed_tensor, vector_palette_indices
from lightning_compress.errors import CompressionError
from lightning_compress.metadata_names import PALETTIZED, QUANTIZED


def nearest(vectors, palette):
    """Squared distances of all vectors, shape (..., d), from all entries."""
    return np.square(vectors[..., None, :].astype(np.float64) - palette).sum(-1)


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([2, 4, 8]),
    st.sampled_from([2, 16, 256]),
    st.sampled_from([0, 1]),
)
def test_each_vector_is_given_the_nearest_entry_of_its_own_palette(seed, size, entries, axis):
    random = np.random.default_rng(seed)
    lut = random.standard_normal((2, 1, entries, size)).astype(np.float32)
    data = random.standard_normal((16, 24)).astype(np.float32)
    indices = vector_palette_indices(data, lut, axis)
    assert indices.shape == (16 // size, 24) if axis == 0 else (16, 24 // size)
    vectors = np.moveaxis(
        data.reshape((16 // size, size, 24) if axis == 0 else (16, 24 // size, size)), axis + 1, -1
    )
    half = len(vectors) // 2
    for part, group in ((slice(half), 0), (slice(half, None), 1)):
        distances = nearest(vectors[part], lut[group, 0])
        found = np.take_along_axis(distances, indices[part][..., None].astype(np.int64), -1)[..., 0]
        np.testing.assert_allclose(found, distances.min(-1), rtol=1e-12)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_copies_of_entries_find_the_first_that_is_equal_however_near_others_are(seed, spread):
    random = np.random.default_rng(seed)
    # Entries a few units in the last place apart, and some of them twice.
    units = random.integers(0, 10**spread, (64, 4))
    palette = (1 + units * np.finfo(np.float32).eps).astype(np.float32)
    chosen = random.integers(0, 64, (8, 5))
    data = np.moveaxis(palette[chosen], -1, 1).reshape(32, 5)
    first = (palette[:, None] == palette).all(-1).argmax(1)
    np.testing.assert_array_equal(
        vector_palette_indices(data, palette[None, None], 0), first[chosen].astype(np.uint8)
    )


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_values_and_palettes_that_are_not_finite_are_refused(size, broken):
    lut = np.array([[0.0] * size, [1.0] * size], np.float32)[None, None]
    values = np.ones((4, 3), np.float32)
    metadata = Metadata((PALETTIZED,), lut=lut, vector_axis=0)
    with pytest.raises(CompressionError, match="'layer.weight'.*its palettes hold NaN or infinity"):
        compressed_tensor(
            values, Metadata((PALETTIZED,), lut=np.full_like(lut, broken), vector_axis=0), "layer.weight"
        )
    values[2, 1] = broken
    with pytest.raises(CompressionError, match="'layer.weight'.*its values hold NaN or infinity"):
        compressed_tensor(values, metadata, "layer.weight")


def test_integers_of_values_that_are_not_finite_are_refused():
    metadata = Metadata((QUANTIZED,), quantization_n_bits=8, quantization_scale=np.ones((1, 1), np.float32))
    with pytest.raises(CompressionError, match="NaN or infinity. Did training diverge"):
        compressed_tensor(np.full((4, 3), np.nan), metadata, "layer.weight")
