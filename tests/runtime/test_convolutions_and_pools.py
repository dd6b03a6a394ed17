"""Convolutions and pools against numpy written from coremltools' documentation: random shapes and attributes."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - coremltools' own name for it
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.runtime.documented import close
from tests.runtime.drawn import batches, examples, normal, seeds

FEW = examples(15)


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


@examples(40)
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


@examples(30)
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


@examples(40)
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
