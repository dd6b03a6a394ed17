"""Sampling at coordinates against numpy written from coremltools' documentation: random shapes and attributes."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - coremltools' own name for it
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.documented import MODES, close, grid
from tests.runtime.drawn import batches, examples, normal, seeds

FEW = examples(15)


def bilinear_at(image, y, x, outside):
    height, width = image.shape[-2:]
    if not (0 <= y <= height - 1 and 0 <= x <= width - 1):
        return np.full(image.shape[:-2], outside, np.float32)
    y0, x0 = int(np.floor(y)), int(np.floor(x))
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    upper = image[..., y0, x0] * (1 - (x - x0)) + image[..., y0, x1] * (x - x0)
    lower = image[..., y1, x0] * (1 - (x - x0)) + image[..., y1, x1] * (x - x0)
    return upper * (1 - (y - y0)) + lower * (y - y0)


@pytest.mark.parametrize("mode", MODES)
@FEW
@given(
    seed=seeds,
    coordinates=st.sampled_from(
        ["CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST"]
    ),
    normalized=st.booleans(),
    scale=st.sampled_from([1.0, 0.5]),
    value=st.sampled_from([0.0, 1.5]),
    mirrored=st.booleans(),
)
def test_crop_resize(programs, mode, seed, coordinates, normalized, scale, value, mirrored):
    x = normal(seed, (2, 3, 6, 5))
    generator = np.random.default_rng(seed)
    starts = generator.uniform(0.1, 2, (3, 2))
    ends = starts + generator.uniform(0.5, 2.8, (3, 2))
    if mirrored:
        starts, ends = ends, starts
    chosen = generator.integers(0, 2, 3)
    expected = np.zeros((3, 3, 2, 4), np.float32)
    for n in range(3):
        places = []
        for axis, count in ((0, 2), (1, 4)):
            first, last = starts[n, axis], ends[n, axis]
            places.append(first + np.sign(last - first) * grid(mode, abs(last - first) + 1, count))
        for i, y in enumerate(places[0]):
            for j, across in enumerate(places[1]):
                expected[n, :, i, j] = bilinear_at(x[chosen[n]], y, across, value)
    divisor = np.array([5, 4]) if normalized else 1
    first, last = starts / scale / divisor, ends / scale / divisor
    if coordinates.startswith("CENTER"):
        first, last = (first + last) / 2, last - first
    if coordinates.endswith("WIDTH_FIRST"):
        first, last = first[:, ::-1], last[:, ::-1]
    boxes = np.concatenate([first, last], 1).astype(np.float32)
    shared = {
        "target_height": 2,
        "target_width": 4,
        "normalized_coordinates": normalized,
        "spatial_scale": np.float32(scale),
        "box_coordinate_mode": coordinates,
        "sampling_mode": mode,
        "pad_value": np.float32(value),
    }
    body = lambda x, boxes: mb.crop_resize(x=x, boxes=boxes, box_indices=chosen.astype(np.int32), **shared)  # noqa: E731
    close(programs.run(body, {"x": x, "boxes": boxes})[0], expected, atol=1e-4)
    # Until iOS16 the number of the image stands before each box, or every box is cut from every image.
    roi = np.concatenate([chosen[:, None], boxes], 1).astype(np.float32).reshape(3, 1, 5, 1, 1)
    body = lambda x, roi: mb.crop_resize(x=x, roi=roi, **shared)  # noqa: E731
    older = programs.build(body, {"x": x, "roi": roi}, target=ct.target.iOS16)
    close(older(*map(tensor, (x, roi))).popitem()[1].numpy()[:, 0], expected, atol=1e-4)
    each = programs.build(body, {"x": x, "roi": roi[:, :, 1:]}, target=ct.target.iOS16)
    crops = each(*map(tensor, (x, roi[:, :, 1:]))).popitem()[1].numpy()
    assert crops.shape == (3, 2, 3, 2, 4)
    close(crops[np.arange(3), chosen], expected, atol=1e-4)


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


@pytest.mark.parametrize("padding", ["constant", "border", "reflection", "symmetric"])
@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
@FEW
@given(
    seed=seeds,
    aligned=st.booleans(),
    coordinates=st.sampled_from(["unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one"]),
)
def test_resample(programs, padding, sampling, seed, aligned, coordinates):
    x = normal(seed, (2, 2, 4, 5))
    places = np.random.default_rng(seed).uniform(-2.3, 6.3, (2, 3, 2, 2))
    places += 0.01 * (np.abs(places % 1 - 0.5) < 0.02)
    value = 0.75
    widths = [(0, 0), (0, 0), (4, 4), (4, 4)]
    mode = {"border": "edge", "reflection": "reflect", "symmetric": "symmetric"}.get(padding)
    wide = np.pad(x, widths, mode=mode) if mode else np.pad(x, widths, constant_values=value)
    expected = np.zeros((2, 2, 3, 2), np.float32)
    for b, i, j in np.ndindex(2, 3, 2):
        across, down = places[b, i, j] + 4
        if sampling == "nearest":
            across, down = np.round(across), np.round(down)
        expected[b, :, i, j] = bilinear_at(wide[b], down, across, np.nan)
    sizes_ = np.array([5, 4])
    given_ = places
    if coordinates != "unnormalized":
        given_ = places / (sizes_ - 1) if aligned else (places + 0.5) / sizes_
    if coordinates == "normalized_minus_one_to_one":
        given_ = 2 * given_ - 1
    body = lambda x, coordinates_: mb.resample(  # noqa: E731
        x=x,
        coordinates=coordinates_,
        sampling_mode=sampling,
        padding_mode=padding,
        padding_value=np.float32(value),
        coordinates_mode=coordinates,
        align_corners=aligned,
    )
    actual = programs.run(body, {"x": x, "coordinates_": given_.astype(np.float32)})[0]
    close(actual, expected, atol=1e-4)


@FEW
@given(seed=seeds, batch=batches, shared=st.booleans())
def test_affine(programs, seed, batch, shared):
    x = normal(seed, (batch, 2, 4, 5))
    matrices = np.tile([1.0, 0, 0, 0, 1, 0], (1 if shared else batch, 1))
    matrices = (matrices * 0.6 + 0.2 * np.random.default_rng(seed).uniform(-1, 1, matrices.shape)).astype(
        np.float32
    )
    expected = np.zeros((batch, 2, 3, 2), np.float32)
    for b, i, j in np.ndindex(batch, 3, 2):
        a = matrices[0 if shared else b]
        u, v = -1 + j * 2 / 1, -1 + i * 2 / 2
        across, down = (a[0] * u + a[1] * v + a[2] + 1) / 2 * 4, (a[3] * u + a[4] * v + a[5] + 1) / 2 * 3
        expected[b, :, i, j] = bilinear_at(np.pad(x[b], [(0, 0), (1, 1), (1, 1)]), down + 1, across + 1, 0)
    body = lambda x: mb.affine(  # noqa: E731
        x=x,
        transform_matrix=matrices,
        output_height=3,
        output_width=2,
        sampling_mode="bilinear",
        padding_mode="constant",
        padding_value=np.float32(0),
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=True,
    )
    close(programs.run(body, {"x": x})[0], expected)
