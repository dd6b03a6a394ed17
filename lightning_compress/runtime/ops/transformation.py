"""Ops that move values without changing them: reshape, transpose, slices and their like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_compress.runtime.batching import away_from_axis_0, only
from lightning_compress.runtime.registry import Call, register

Integers = Sequence[int] | Tensor


def integers(values: Integers) -> list[int]:
    """Sizes or positions as Python integers, whether the program fixes or computes them."""
    return values.reshape(-1).tolist() if isinstance(values, Tensor) else list(values)


def _leading_one(call: Call) -> bool:
    shape = call.attributes.get("shape")
    return only("x")(call) and shape is not None and shape[0] in (1, 0)


def _leading_copy(attributes: dict[str, Any]) -> dict[str, Any]:
    return {**attributes, "shape": [0, *attributes["shape"][1:]]}


@register("reshape", tensors="x", samplewise=_leading_one, unfixed=_leading_copy, exact=True)
def reshape(x: Tensor, shape: Integers) -> Tensor:
    """`x` in another shape; 0 copies a size of `x`, -1 is what remains."""
    sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(integers(shape))]
    return x.reshape(sizes)


@register("reshape_like", tensors="x ref_tensors", exact=True)
def reshape_like(
    x: Tensor, ref_tensors: list[Tensor], begins: list[int], ends: list[int], end_masks: list[bool]
) -> Tensor:
    """`x` in a shape put together from parts of the shapes of other tensors."""
    sizes: list[int] = []
    for reference, begin, end, open_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes += reference.shape[begin:] if open_end else reference.shape[begin:end]
    return x.reshape(sizes)


def _expand_samplewise(call: Call) -> bool:
    rank = len(call.results[0])
    return all(axis % rank != 0 for axis in call.attributes["axes"])


@register("expand_dims", tensors="x", samplewise=_expand_samplewise, exact=True)
def expand_dims(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Insert axes of size 1 at these positions of the result."""
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@register("squeeze", tensors="x", samplewise=away_from_axis_0("x", "axes"), exact=True)
def squeeze(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Drop axes of size 1; other axes that are named stay."""
    named = range(x.dim()) if axes is None else [axis % x.dim() for axis in axes]
    for axis in sorted(named, reverse=True):
        x = x.squeeze(axis)
    return x


def _keeps_axis_0(call: Call) -> bool:
    permutation = call.attributes["perm"]
    return bool(permutation[0] % len(permutation) == 0)


@register("transpose", tensors="x", samplewise=_keeps_axis_0, exact=True)
def transpose(x: Tensor, perm: Sequence[int]) -> Tensor:
    """Permute the axes."""
    return x.permute(*perm)


def _slice_samplewise(call: Call) -> bool:
    given = call.attributes
    rank = len(call.operands["x"][0].shape)
    flags = {name: given.get(name) or [False] * rank for name in ("begin_mask", "end_mask", "squeeze_mask")}
    if not only("x")(call) or "begin" not in given or "end" not in given or flags["squeeze_mask"][0]:
        return False
    stride = given.get("stride") or [1] * rank
    starts = flags["begin_mask"][0] or given["begin"][0] == 0
    ends = flags["end_mask"][0] or given["end"][0] == 1
    return bool(starts and ends and stride[0] == 1)


def _open_slice(attributes: dict[str, Any]) -> dict[str, Any]:
    rank = len(attributes["begin"])
    opened = {
        name: [True, *(attributes.get(name) or [False] * rank)[1:]] for name in ("begin_mask", "end_mask")
    }
    return {**attributes, **opened}


@register("slice_by_index", tensors="x", samplewise=_slice_samplewise, unfixed=_open_slice, exact=True)
def slice_by_index(
    x: Tensor,
    begin: Integers,
    end: Integers,
    stride: Integers | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Tensor:
    """`x[begin:end:stride]` on each axis; masks open a side or take one entry and drop the axis."""
    flipped, indices = _positive_slice(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    return (x.flip(flipped) if flipped else x)[indices]


@register("slice_update", tensors="x update", exact=True)
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Integers,
    end: Integers,
    stride: Integers | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Tensor:
    """`x` with the slice that `slice_by_index` would take replaced."""
    flipped, indices = _positive_slice(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    positions = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    target = (positions.flip(flipped) if flipped else positions)[indices].reshape(-1)
    return x.reshape(-1).scatter(0, target, update.reshape(-1)).reshape(x.shape)


def _positive_slice(
    x: Tensor,
    begin: Integers,
    end: Integers,
    stride: Integers | None,
    begin_mask: Sequence[bool] | None,
    end_mask: Sequence[bool] | None,
    squeeze_mask: Sequence[bool] | None,
) -> tuple[list[int], tuple[int | slice, ...]]:
    """Axes to flip first, and the index of positive steps to take then: torch has no negative ones."""
    begins, ends = integers(begin), integers(end)
    strides = [1] * x.dim() if stride is None else integers(stride)
    open_begin = begin_mask or [False] * x.dim()
    open_end = end_mask or [False] * x.dim()
    single = squeeze_mask or [False] * x.dim()
    indices: list[int | slice] = []
    flipped: list[int] = []
    for axis in range(x.dim()):
        if single[axis]:
            indices.append(0 if open_begin[axis] else begins[axis])
            continue
        start = None if open_begin[axis] else begins[axis]
        stop = None if open_end[axis] else ends[axis]
        if strides[axis] > 0:
            indices.append(slice(start, stop, strides[axis]))
            continue
        chosen = range(x.shape[axis])[slice(start, stop, strides[axis])]
        size = x.shape[axis]
        first = size - 1 - chosen.start if len(chosen) else 0
        indices.append(
            slice(first, first - strides[axis] * (len(chosen) - 1) + 1 if chosen else 0, -strides[axis])
        )
        flipped.append(axis)
    return flipped, tuple(indices)


def _size_samplewise(call: Call) -> bool:
    begin, size = call.attributes.get("begin"), call.attributes.get("size")
    return only("x")(call) and begin is not None and size is not None and begin[0] == 0 and size[0] in (1, -1)


def _open_size(attributes: dict[str, Any]) -> dict[str, Any]:
    return {**attributes, "size": [-1, *attributes["size"][1:]]}


@register("slice_by_size", tensors="x", samplewise=_size_samplewise, unfixed=_open_size, exact=True)
def slice_by_size(x: Tensor, begin: Integers, size: Integers) -> Tensor:
    """`size` entries from `begin` on each axis; -1 takes all that remain."""
    for axis, (start, length) in enumerate(zip(integers(begin), integers(size), strict=True)):
        first = start % x.shape[axis] if start < 0 else start
        x = x.narrow(axis, first, x.shape[axis] - first if length == -1 else length)
    return x


@register("depth_to_space", tensors="x", samplewise=only("x"), exact=True)
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """Move blocks of channels into space; the block comes first among the channels, as in TensorFlow."""
    n, c, h, w = x.shape
    b = block_size
    blocks = x.reshape(n, b, b, c // (b * b), h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


@register("space_to_depth", tensors="x", samplewise=only("x"), exact=True)
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """The inverse of `depth_to_space`."""
    n, c, h, w = x.shape
    b = block_size
    blocks = x.reshape(n, c, h // b, b, w // b, b)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


@register("space_to_batch", tensors="x", exact=True)
def space_to_batch(x: Tensor, block_shape: Sequence[int], paddings: Sequence[Sequence[int]]) -> Tensor:
    """Move blocks of space into the batch, block positions first."""
    (top, bottom), (left, right) = paddings
    x = F.pad(x, (left, right, top, bottom))
    n, c, h, w = x.shape
    bh, bw = block_shape
    blocks = x.reshape(n, c, h // bh, bh, w // bw, bw)
    return blocks.permute(3, 5, 0, 1, 2, 4).reshape(n * bh * bw, c, h // bh, w // bw)


@register("batch_to_space", tensors="x", exact=True)
def batch_to_space(x: Tensor, block_shape: Sequence[int], crops: Sequence[Sequence[int]]) -> Tensor:
    """The inverse of `space_to_batch`."""
    (top, bottom), (left, right) = crops
    n, c, h, w = x.shape
    bh, bw = block_shape
    blocks = x.reshape(bh, bw, n // (bh * bw), c, h, w)
    merged = blocks.permute(2, 3, 4, 0, 5, 1).reshape(n // (bh * bw), c, h * bh, w * bw)
    return merged[:, :, top : h * bh - bottom, left : w * bw - right]


@register("pixel_shuffle", tensors="x", samplewise=only("x"), exact=True)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """PyTorch's PixelShuffle."""
    return F.pixel_shuffle(x, upscale_factor)


@register("pixel_unshuffle", tensors="x", samplewise=only("x"), exact=True)
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """PyTorch's PixelUnshuffle."""
    return F.pixel_unshuffle(x, downscale_factor)


@register("reverse", tensors="x", samplewise=away_from_axis_0("x", "axes"), exact=True)
def reverse(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Reverse the order along axes, all of them by default."""
    return x.flip(list(range(x.dim())) if axes is None else list(axes))


@register("reverse_sequence", tensors="x lengths", exact=True)
def reverse_sequence(x: Tensor, lengths: Tensor, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """Reverse the first `lengths[i]` entries along `seq_axis` for each entry `i` of `batch_axis`."""
    moved = x.movedim((batch_axis, seq_axis), (0, 1))
    length = lengths.reshape(-1, 1).to(moved.device)
    position = torch.arange(moved.shape[1], device=moved.device).reshape(1, -1)
    source = torch.where(position < length, length - 1 - position, position)
    source = source.reshape(*source.shape, *[1] * (moved.dim() - 2)).expand_as(moved)
    return torch.gather(moved, 1, source.long()).movedim((0, 1), (batch_axis, seq_axis))


@register("sliding_windows", tensors="x", samplewise=away_from_axis_0("x", "axis"), exact=True)
def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """All windows of `size` along an axis; the entries of a window become the next axis."""
    return x.unfold(axis, size, stride).movedim(-1, axis % x.dim() + 1)
