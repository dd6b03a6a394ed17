"""Resizing and cropping against numpy written from coremltools' documentation: random shapes and attributes."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - coremltools' own name for it
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.runtime.documented import MODES, close, grid
from tests.runtime.drawn import examples, normal, seeds

FEW = examples(15)


def interpolated(x, axis, points):
    low = np.floor(points).astype(int)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    share = (points - low).reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    return np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share


sizes = st.integers(1, 7)


@pytest.mark.parametrize("mode", MODES)
@FEW
@given(seed=seeds, rank=st.integers(3, 5), height=sizes, width=sizes)
def test_resize_bilinear(programs, mode, seed, rank, height, width):
    x = normal(seed, (1, 2, 3, 4, 3)[-rank:])
    expected = interpolated(
        interpolated(x, -2, grid(mode, x.shape[-2], height)), -1, grid(mode, x.shape[-1], width)
    )
    body = lambda x: mb.resize_bilinear(  # noqa: E731
        x=x, target_size_height=height, target_size_width=width, sampling_mode=mode
    )
    close(programs.run(body, {"x": x}, target=ct.target.iOS16)[0], expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("interpolation", ["LINEAR", "NEAREST_NEIGHBOR"])
@FEW
@given(seed=seeds, height=st.integers(0, 7), width=sizes)
def test_resize(programs, mode, interpolation, seed, height, width):
    x = normal(seed, (1, 2, 4, 3))
    points = [grid(mode, 4, height or 4), grid(mode, 3, width)]
    assume(interpolation == "LINEAR" or all(np.abs((p % 1) - 0.5).min() > 1e-3 for p in points))
    if interpolation == "LINEAR":
        expected = interpolated(interpolated(x, -2, points[0]), -1, points[1])
    else:
        expected = x[:, :, np.round(points[0]).astype(int)][..., np.round(points[1]).astype(int)]
    body = lambda x: mb.resize(  # noqa: E731
        x=x,
        shape=[1, height, width],
        resized_dims=np.uint32(2),
        interpolation_mode=interpolation,
        sampling_mode=mode,
    )
    close(programs.run(body, {"x": x})[0], expected)


@FEW
@given(
    seed=seeds,
    height=st.integers(1, 3),
    width=st.floats(1, 3, width=32),
    aligned=st.booleans(),
    centred=st.booleans(),
)
def test_upsample_bilinear(programs, seed, height, width, aligned, centred):
    x = normal(seed, (1, 2, 4, 3))
    target = (4 * height, int(np.floor(3 * np.float32(width))))
    mode = "STRICT_ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS" if centred else "DEFAULT"
    expected = interpolated(interpolated(x, -2, grid(mode, 4, target[0])), -1, grid(mode, 3, target[1]))
    body = lambda x: mb.upsample_bilinear(  # noqa: E731
        x=x,
        scale_factor_height=np.float32(height),
        scale_factor_width=np.float32(width),
        align_corners=aligned,
        half_pixel_centers=centred and not aligned,
    )
    close(programs.run(body, {"x": x})[0], expected)


@FEW
@given(seed=seeds, height=st.integers(1, 3), width=st.integers(1, 3))
def test_nearest_neighbours(programs, seed, height, width):
    x = normal(seed, (1, 2, 4, 3))
    expected = x.repeat(height, 2).repeat(width, 3)
    body = lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=height, scale_factor_width=width)  # noqa: E731
    close(programs.run(body, {"x": x})[0], expected)
    body = lambda x: mb.resize_nearest_neighbor(  # noqa: E731
        x=x, target_size_height=4 * height, target_size_width=3 * width
    )
    close(programs.run(body, {"x": x})[0], expected)


@FEW
@given(seed=seeds, top=st.integers(0, 1), left=st.integers(0, 1), right=st.integers(0, 1))
def test_crop(programs, seed, top, left, right):
    x = normal(seed, (1, 2, 5, 4))
    body = lambda x: mb.crop(x=x, crop_height=[top, 1], crop_width=[left, right])  # noqa: E731
    close(programs.run(body, {"x": x})[0], x[:, :, top:4, left : 4 - right])
