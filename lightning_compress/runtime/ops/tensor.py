"""Ops that join, split, fill, sort and otherwise make tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_compress.runtime.batching import all_batched, away_from_axis_0, only
from lightning_compress.runtime.ops.convolution import torch_order
from lightning_compress.runtime.ops.transformation import Integers, integers
from lightning_compress.runtime.registry import Call, register


@register("concat", tensors="values", samplewise=all_batched("values", "axis"), exact=True)
def concat(values: list[Tensor], axis: int, interleave: bool = False) -> Tensor:
    """Join along an axis; scalars become a vector. `interleave` takes entries of the operands in turn."""
    values = [value.reshape(1) if value.dim() == 0 else value for value in _on_one_device(values)]
    if not interleave:
        return torch.cat(values, axis)
    axis = axis % values[0].dim()
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


@register("stack", tensors="values", samplewise=all_batched("values", "axis"), exact=True)
def stack(values: list[Tensor], axis: int) -> Tensor:
    """Join along a new axis."""
    return torch.stack(_on_one_device(values), axis)


@register("split", tensors="x", samplewise=away_from_axis_0("x", "axis"), exact=True)
def split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Integers | None = None
) -> tuple[Tensor, ...]:
    """Cut along an axis, into equal parts or into the given sizes."""
    if split_sizes is not None:
        return torch.split(x, integers(split_sizes), axis)
    assert num_splits is not None
    return torch.split(x, x.shape[axis] // num_splits, axis)


@register("flatten2d", tensors="x", samplewise=lambda call: call.attributes["axis"] == 1, exact=True)
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    """Two axes: those before `axis` in the first, the rest in the second."""
    rows = 1
    for size in x.shape[: axis % x.dim() if axis < 0 else axis]:
        rows *= size
    return x.reshape(rows, -1)


@register("shape", tensors="x")
def shape(x: Tensor, output_dtype: str = "int32") -> Tensor:
    """The sizes of `x`, held on the CPU, where they are read."""
    return torch.tensor(x.shape, dtype=torch.int32)


@register("fill", tensors="", exact=True)
def fill(shape: Integers, value: Any = 0.0) -> Tensor:
    """A tensor of one value."""
    return _filled(integers(shape), value, shape.device if isinstance(shape, Tensor) else None)


@register("fill_like", tensors="ref_tensor", exact=True)
def fill_like(ref_tensor: Tensor, value: Any = 0.0) -> Tensor:
    """A tensor of one value, in the shape of another."""
    return _filled(list(ref_tensor.shape), value, ref_tensor.device)


@register("range_1d", tensors="", traceable=False)
def range_1d(start: Any, end: Any, step: Any) -> Tensor:
    """`start`, `start + step`, ... below `end`."""
    bounds = [value.item() if isinstance(value, Tensor) else value for value in (start, end, step)]
    dtype = torch.float32 if any(isinstance(value, float) for value in bounds) else torch.int32
    return torch.arange(*bounds, dtype=dtype)


def _reps_samplewise(call: Call) -> bool:
    reps = call.attributes.get("reps")
    return only("x")(call) and reps is not None and reps[0] == 1


@register("tile", tensors="x", samplewise=_reps_samplewise, exact=True)
def tile(x: Tensor, reps: Integers) -> Tensor:
    """Repeat along each axis."""
    return x.repeat(integers(reps))


def _pad_samplewise(call: Call) -> bool:
    pads = call.attributes.get("pad")
    rank = len(call.operands["x"][0].shape)
    return only("x")(call) and pads is not None and (len(pads) < 2 * rank or pads[0] == pads[1] == 0)


@register("pad", tensors="x", samplewise=_pad_samplewise, exact=True)
def pad(x: Tensor, pad: Integers, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """Widen the last axes by a value, by mirroring, or by repeating the edge."""
    pads = integers(pad)
    if mode == "constant":
        return F.pad(x, torch_order(pads), value=constant_val)
    first = x.dim() - len(pads) // 2
    for axis, (before, after) in enumerate(zip(pads[0::2], pads[1::2], strict=True), start=first):
        if before or after:
            # By index, since torch mirrors and repeats the last three axes of some ranks only.
            position = torch.arange(-before, x.shape[axis] + after, device=x.device)
            if mode == "reflect":
                last = x.shape[axis] - 1
                position = last - (last - position.abs()).abs()
            x = x.index_select(axis, position.clamp(0, x.shape[axis] - 1))
    return x


@register("band_part", tensors="x", samplewise=lambda call: len(call.results[0]) > 2, exact=True)
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """Zeros outside of a band around the diagonal of the last two axes; a negative width keeps a whole side."""
    rows = torch.arange(x.shape[-2], device=x.device).reshape(-1, 1)
    columns = torch.arange(x.shape[-1], device=x.device)
    inside = torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device)
    if lower >= 0:
        inside = inside & (rows - columns <= lower)
    if upper >= 0:
        inside = inside & (columns - rows <= upper)
    return torch.where(inside, x, torch.zeros((), dtype=x.dtype, device=x.device))


@register("cumsum", tensors="x", samplewise=away_from_axis_0("x", "axis", 0))
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running sum, without the entry itself when exclusive, from the end when reversed."""
    if reverse:
        x = x.flip(axis)
    total = torch.cumsum(x, axis, dtype=x.dtype)
    if exclusive:
        total = torch.cat(
            (torch.zeros_like(total.narrow(axis, 0, 1)), total.narrow(axis, 0, x.shape[axis] - 1)), axis
        )
    return total.flip(axis) if reverse else total


@register("argsort", tensors="x", samplewise=away_from_axis_0("x", "axis", -1))
def argsort(x: Tensor, axis: int = -1, ascending: bool = False, output_dtype: str = "int32") -> Tensor:
    """Positions in sorted order; equal values keep their order."""
    return torch.argsort(x, dim=axis, descending=not ascending, stable=True).to(torch.int32)


@register("topk", tensors="x", samplewise=away_from_axis_0("x", "axis", -1))
def topk(
    x: Tensor,
    k: int | Tensor = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Tensor | tuple[Tensor, ...]:
    """The `k` largest or smallest values and their positions; -1 takes all. Equal values keep their order."""
    count = int(k) if int(k) != -1 else x.shape[axis]
    values, positions = torch.sort(x, dim=axis, descending=not ascending, stable=True)
    values = values.narrow(axis, 0, count)
    return (values, positions.narrow(axis, 0, count).to(torch.int32)) if return_indices else values


@register("one_hot", tensors="indices")
def one_hot(
    indices: Tensor, one_hot_vector_size: int | Tensor, axis: int = -1, on_value: Any = 1, off_value: Any = 0
) -> Tensor:
    """`on_value` at the positions in `indices`, `off_value` elsewhere, along a new axis."""
    positions = torch.arange(int(one_hot_vector_size), device=indices.device)
    hot = indices.unsqueeze(-1) == positions
    on, off = _filled([], on_value, indices.device), _filled([], off_value, indices.device)
    return torch.where(hot, on, off).movedim(-1, axis)


@register("non_zero", tensors="x", traceable=False)
def non_zero(x: Tensor) -> Tensor:
    """Positions of all entries that are not zero, one row each."""
    return torch.nonzero(x).to(torch.int32)


@register("classify", tensors="probabilities", samplewise=lambda call: True, exact=True)
def classify(probabilities: Tensor, classes: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """The position of the most probable class of each sample, and the probabilities."""
    return torch.argmax(probabilities, -1).to(torch.int32), probabilities


def _filled(sizes: list[int], value: Any, device: torch.device | None) -> Tensor:
    if isinstance(value, Tensor):
        return value.expand(sizes)
    dtype = {bool: torch.bool, int: torch.int32, float: torch.float32}[type(value)]
    return torch.full(sizes, value, dtype=dtype, device=device)


def _on_one_device(values: list[Tensor]) -> list[Tensor]:
    """Shapes are computed on the CPU; what they are joined with is as small."""
    if all(value.device == values[0].device for value in values):
        return values
    return [value.cpu() for value in values]
