"""Gathers and scatters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_compress.runtime.batching import only
from lightning_compress.runtime.registry import Call, register

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _gather_samplewise(call: Call) -> bool:
    rank = len(call.operands["x"][0].shape)
    return (
        only("x")(call)
        and not call.attributes.get("batch_dims")
        and call.attributes.get("axis", 0) % rank != 0
    )


@register("gather", tensors="x indices", samplewise=_gather_samplewise, exact=True)
def gather(
    x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False
) -> Tensor:
    """Entries of an axis of `x` at `indices`; the axes of `indices` take its place."""
    axis = axis % x.dim()
    where = _positive(indices, x.shape[axis], x.device)
    if not batch_dims:
        flat = x.index_select(axis, where.reshape(-1))
        return flat.reshape(*x.shape[:axis], *where.shape, *x.shape[axis + 1 :])
    # The first axes of both go together: number them, and take all their entries at once.
    lead = x.shape[:batch_dims]
    batches = lead.numel()
    rows = x.reshape(batches, *x.shape[batch_dims:]).movedim(axis - batch_dims + 1, 1)
    each = where.reshape(batches, -1)
    taken = rows[torch.arange(batches, device=x.device).unsqueeze(1), each]
    taken = taken.movedim(1, axis - batch_dims + 1)
    inner = x.shape[batch_dims:axis]
    return taken.reshape(*lead, *inner, *where.shape[batch_dims:], *x.shape[axis + 1 :])


@register("gather_along_axis", tensors="x indices", exact=True)
def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    """Entries along an axis, chosen for each position of the other axes."""
    return torch.take_along_dim(x, _positive(indices, x.shape[axis], x.device), axis)


@register("gather_nd", tensors="x indices", exact=True)
def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Slices of `x` at the coordinates in the last axis of `indices`."""
    lead = x.shape[:batch_dims]
    batches = lead.numel()
    rows = x.reshape(batches, *x.shape[batch_dims:])
    where = indices.to(x.device).long().reshape(batches, -1, indices.shape[-1])
    batch = torch.arange(batches, device=x.device).unsqueeze(1).expand(where.shape[:2])
    taken = rows[(batch, *_coordinates(where, rows.shape[1:]))]
    return taken.reshape(*indices.shape[:-1], *x.shape[batch_dims + indices.shape[-1] :])


@register("scatter", tensors="data indices updates")
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """Put `updates` into slices of an axis of `data`."""
    where = _positive(indices, data.shape[axis], data.device)
    shape = [1] * data.dim()
    shape[axis] = -1
    return _scatter(data, where.reshape(shape).expand(updates.shape), updates, axis, mode)


@register("scatter_along_axis", tensors="data indices updates")
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """Put `updates` along an axis of `data`, where for each position of the other axes is in `indices`."""
    return _scatter(data, _positive(indices, data.shape[axis], data.device), updates, axis, mode)


@register("scatter_nd", tensors="data indices updates")
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """Put `updates` into slices of `data` at the coordinates in the last axis of `indices`."""
    depth = indices.shape[-1]
    outer, inner = data.shape[:depth], data.shape[depth:]
    rows = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=data.device)
    for size, coordinate in zip(outer, _coordinates(indices.to(data.device).long(), outer), strict=True):
        rows = rows * size + coordinate
    width = inner.numel()
    where = rows.reshape(-1, 1).expand(-1, width)
    flat = _scatter(data.reshape(outer.numel(), width), where, updates.reshape(-1, width), 0, mode)
    return flat.reshape(data.shape)


def _scatter(data: Tensor, where: Tensor, updates: Tensor, axis: int, mode: str) -> Tensor:
    if mode == "update":
        return data.scatter(axis, where, updates)
    if mode == "sub":
        return data.scatter_reduce(axis, where, -updates, "sum")
    if mode == "div":
        divisor = torch.ones_like(data).scatter_reduce(axis, where, updates, "prod")
        return data / divisor if data.is_floating_point() else torch.div(data, divisor, rounding_mode="trunc")
    return data.scatter_reduce(axis, where, updates, _REDUCTIONS[mode])


def _positive(indices: Any, size: int, device: torch.device) -> Tensor:
    """Indices as torch wants them; negative ones count from the end."""
    where: Tensor = indices.to(device).long()
    return torch.where(where < 0, where + size, where)


def _coordinates(where: Tensor, sizes: torch.Size) -> list[Tensor]:
    return [
        torch.where(coordinate < 0, coordinate + size, coordinate)
        for coordinate, size in zip(where.unbind(-1), sizes, strict=False)
    ]
