"""Ops without value inference against numpy written from coremltools' documentation: random shapes and attributes."""

from __future__ import annotations

import itertools

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - coremltools' own name for it
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

seeds = st.integers(0, 2**16)
batches = st.integers(1, 2)


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def close(actual, expected, atol=2e-5, rtol=1e-4):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=atol, rtol=rtol)


def pads_of(pad_type, pad, sizes, kernel, strides, dilations):
    if pad_type == "custom":
        return pad
    if pad_type == "valid":
        return [0] * (2 * len(kernel))
    pads = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        needed = (int(np.ceil(size / s)) - 1) * s + (k - 1) * d + 1 - size
        needed = max(needed, 0)
        before = needed // 2 if pad_type == "same" else needed - needed // 2
        pads += [before, needed - before]
    return pads


def windows(x, kernel, strides, pads, dilations, value):
    """Every window of a padded array [N, C, *D]: position in the result, values [N, C, *K]."""
    widths = [(0, 0), (0, 0), *zip(pads[0::2], pads[1::2], strict=True)]
    padded = np.pad(x, widths, constant_values=value)
    counts = [
        (size - (k - 1) * d - 1) // s + 1
        for size, k, s, d in zip(padded.shape[2:], kernel, strides, dilations, strict=True)
    ]
    for position in itertools.product(*map(range, counts)):
        cut = tuple(
            slice(p * s, p * s + (k - 1) * d + 1, d)
            for p, k, s, d in zip(position, kernel, strides, dilations, strict=True)
        )
        yield counts, position, padded[(slice(None), slice(None), *cut)]


@st.composite
def geometries(draw, dilated=True):
    rank = draw(st.integers(1, 3))
    numbers = lambda low, high: draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))  # noqa: E731
    sizes, kernel, strides = numbers(3, 6 if rank < 3 else 4), numbers(1, 3), numbers(1, 2)
    dilations = numbers(1, 2) if dilated else [1] * rank
    pad_type = draw(st.sampled_from(["valid", "same", "same_lower", "custom"]))
    pad = draw(st.lists(st.integers(0, 1), min_size=2 * rank, max_size=2 * rank))
    pads = pads_of(pad_type, pad, sizes, kernel, strides, dilations)
    for size, k, d, before, after in zip(sizes, kernel, dilations, pads[0::2], pads[1::2], strict=True):
        assume(size + before + after >= (k - 1) * d + 1)
        assume(before < k and after < k)
    return sizes, kernel, strides, dilations, pad_type, pad, pads


@settings(FEW, max_examples=40)
@given(seed=seeds, batch=batches, geometry=geometries(), groups=st.integers(1, 2), biased=st.booleans())
def test_conv(programs, seed, batch, geometry, groups, biased):
    sizes, kernel, strides, dilations, pad_type, pad, pads = geometry
    x = normal(seed, (batch, 2 * groups, *sizes))
    weight, bias = normal(seed + 1, (2 * groups, 2, *kernel)), normal(seed + 2, (2 * groups,))
    attributes = {
        "strides": strides,
        "dilations": dilations,
        "pad_type": pad_type,
        "groups": groups,
        "weight": weight,
    }
    if pad_type == "custom":
        attributes["pad"] = pad
    if biased:
        attributes["bias"] = bias
    expected = None
    for counts, position, window in windows(x, kernel, strides, pads, dilations, 0):
        if expected is None:
            expected = np.zeros((batch, 2 * groups, *counts), np.float32)
        grouped = window.reshape(batch, groups, 2, *kernel)
        filters = weight.reshape(groups, 2, 2, *kernel)
        values = np.einsum(
            "bgix,goix->bgo", grouped.reshape(batch, groups, 2, -1), filters.reshape(groups, 2, 2, -1)
        )
        expected[(slice(None), slice(None), *position)] = values.reshape(batch, -1) + (bias if biased else 0)
    close(programs.run(lambda x: mb.conv(x=x, **attributes), {"x": x})[0], expected)


@settings(FEW, max_examples=30)
@given(
    seed=seeds,
    batch=batches,
    rank=st.integers(1, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    kernel=st.integers(1, 3),
    groups=st.integers(1, 2),
    pad_type=st.sampled_from(["valid", "custom", "same"]),
    pad=st.lists(st.integers(0, 1), min_size=6, max_size=6),
    biased=st.booleans(),
)
def test_conv_transpose(programs, seed, batch, rank, stride, dilation, kernel, groups, pad_type, pad, biased):
    extent = (kernel - 1) * dilation + 1
    assume(pad_type != "same" or extent >= stride)
    size, pads = 3, pad[: 2 * rank]
    full = (size - 1) * stride + extent
    assume(pad_type != "custom" or full > 2)
    x = normal(seed, (batch, 2 * groups, *[size] * rank))
    weight, bias = normal(seed + 1, (2 * groups, 2, *[kernel] * rank)), normal(seed + 2, (2 * groups,))
    expected = np.zeros((batch, 2 * groups, *[full] * rank), np.float32)
    for position in itertools.product(range(size), repeat=rank):
        for tap in itertools.product(range(kernel), repeat=rank):
            target = tuple(p * stride + t * dilation for p, t in zip(position, tap, strict=True))
            values = np.einsum(
                "bgi,gio->bgo",
                x[(slice(None), slice(None), *position)].reshape(batch, groups, 2),
                weight[(slice(None), slice(None), *tap)].reshape(groups, 2, 2),
            )
            expected[(slice(None), slice(None), *target)] += values.reshape(batch, -1)
    cuts = [(0, full)] * rank
    if pad_type == "custom":
        cuts = [(before, full - after) for before, after in zip(pads[0::2], pads[1::2], strict=True)]
    if pad_type == "same":
        first = (full - size * stride) // 2
        cuts = [(first, first + size * stride)] * rank
    expected = expected[(slice(None), slice(None), *(slice(*cut) for cut in cuts))]
    attributes = {
        "weight": weight,
        "strides": [stride] * rank,
        "dilations": [dilation] * rank,
        "groups": groups,
        "pad_type": pad_type,
        "pad": pads,
    }
    if biased:
        attributes["bias"] = bias
        expected = expected + bias.reshape(-1, *[1] * rank)
    close(programs.run(lambda x: mb.conv_transpose(x=x, **attributes), {"x": x})[0], expected)


@settings(FEW, max_examples=40)
@given(seed=seeds, batch=batches, geometry=geometries(dilated=False), excluded=st.booleans())
def test_pools(programs, seed, batch, geometry, excluded):
    sizes, kernel, strides, ones, pad_type, pad, pads = geometry
    x = normal(seed, (batch, 2, *sizes))
    shared = {"kernel_sizes": kernel, "strides": strides, "pad_type": pad_type}
    if pad_type == "custom":
        shared["pad"] = pad
    places = list(windows(x, kernel, strides, pads, ones, np.nan))
    shape = (batch, 2, *places[0][0])
    largest, mean, root = (np.zeros(shape, np.float32) for _ in range(3))
    for _, position, window in places:
        at = (slice(None), slice(None), *position)
        flat = window.reshape(batch, 2, -1)
        largest[at] = np.nanmax(flat, -1)
        mean[at] = np.nanmean(flat, -1) if excluded else np.nansum(flat, -1) / flat.shape[-1]
        root[at] = np.sqrt(np.nansum(flat**2, -1))
    close(programs.run(lambda x: mb.max_pool(x=x, **shared), {"x": x})[0], largest)
    averaged = {**shared, "exclude_padding_from_average": excluded}
    close(programs.run(lambda x: mb.avg_pool(x=x, **averaged), {"x": x})[0], mean)
    if len(sizes) < 3:
        close(programs.run(lambda x: mb.l2_pool(x=x, **shared), {"x": x})[0], root)


@FEW
@given(
    seed=seeds,
    size=st.integers(4, 9),
    kernel=st.integers(2, 3),
    stride=st.integers(1, 3),
    pad=st.integers(0, 1),
    excluded=st.booleans(),
)
def test_pools_in_ceil_mode_follow_pytorch(programs, seed, size, kernel, stride, pad, excluded):
    import torch
    import torch.nn.functional as F

    # Without padding MIL keeps a window that would begin outside of the input, and PyTorch does not.
    assume(pad > 0 or stride <= kernel)
    x = normal(seed, (1, 2, size, size + 1))
    shared = {"kernel_sizes": [kernel] * 2, "strides": [stride] * 2, "pad_type": "custom", "pad": [pad] * 4}
    given_ = torch.from_numpy(x)
    expected = F.max_pool2d(given_, kernel, stride, pad, ceil_mode=True).numpy()
    close(programs.run(lambda x: mb.max_pool(x=x, ceil_mode=True, **shared), {"x": x})[0], expected)
    expected = F.avg_pool2d(
        given_, kernel, stride, pad, ceil_mode=True, count_include_pad=not excluded
    ).numpy()
    averaged = {**shared, "exclude_padding_from_average": excluded}
    close(programs.run(lambda x: mb.avg_pool(x=x, ceil_mode=True, **averaged), {"x": x})[0], expected)


@FEW
@given(seed=seeds, batch=batches, rank=st.integers(1, 2), affine=st.booleans())
def test_batch_norm_and_instance_norm(programs, seed, batch, rank, affine):
    x = normal(seed, (batch, 3, 4, 2)[: rank + 2])
    mean, variance, gamma, beta = (np.abs(normal(seed + i, (3,))) + 0.1 for i in range(1, 5))
    parameters = {"gamma": gamma, "beta": beta} if affine else {}
    scale, shift = (gamma, beta) if affine else (np.ones(3), np.zeros(3))
    c = lambda v: v.reshape(-1, *[1] * rank)  # noqa: E731
    expected = c(scale) * (x - c(mean)) / np.sqrt(c(variance) + 1e-3) + c(shift)
    body = lambda x: mb.batch_norm(x=x, mean=mean, variance=variance, epsilon=np.float32(1e-3), **parameters)  # noqa: E731
    close(programs.run(body, {"x": x})[0], expected)
    axes = tuple(range(2, rank + 2))
    own = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-3)
    body = lambda x: mb.instance_norm(x=x, epsilon=np.float32(1e-3), **parameters)  # noqa: E731
    close(programs.run(body, {"x": x})[0], c(scale) * own + c(shift), atol=1e-4)


@FEW
@given(seed=seeds, batch=batches, size=st.sampled_from([1, 3, 5]), beta=st.floats(0.5, 1))
def test_local_response_norm(programs, seed, batch, size, beta):
    x = normal(seed, (batch, 6, 2, 2))
    squares = np.stack(
        [(x[:, max(0, i - size // 2) : i + (size - 1) // 2 + 1] ** 2).sum(1) for i in range(6)],
        1,
    )
    expected = x / (1.5 + 0.1 / size * squares) ** np.float32(beta)
    body = lambda x: mb.local_response_norm(  # noqa: E731
        x=x, size=size, alpha=np.float32(0.1), beta=np.float32(beta), k=np.float32(1.5)
    )
    close(programs.run(body, {"x": x})[0], expected)


@FEW
@given(seed=seeds, shape=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_silu(programs, seed, shape):
    x = normal(seed, shape)
    close(programs.run(lambda x: mb.silu(x=x), {"x": x})[0], x / (1 + np.exp(-x)))


def grid(mode, size, count):
    i = np.arange(count)
    if mode == "UNALIGN_CORNERS":
        points = i * size / count + 0.5 * size / count - 0.5
    elif mode == "DEFAULT":
        points = i * (size - size / count) / max(count - 1, 1)
    elif mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / count
        points = 0.5 * delta + i * delta
    else:
        points = i * (size - 1) / max(count - 1, 1)
        if mode == "ALIGN_CORNERS" and count == 1:
            points = np.array([(size - 1) / 2])
    return np.clip(points, 0, size - 1)


def interpolated(x, axis, points):
    low = np.floor(points).astype(int)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    share = (points - low).reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    return np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share


MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")
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
    import torch

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
