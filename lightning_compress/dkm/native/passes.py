"""The four passes between weights and a grid, in C: as `dkm.passes`, which see."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_compress.dkm.grid import Grid, at_edges
from lightning_compress.dkm.native.library import call, parts_for, threads

_LEAST_PART = 1 << 15
"""Weights worth a thread."""


def masses(grid: Grid, places: Tensor, absent: Tensor | None = None) -> Tensor:
    """The weights' masses on the points, (G, M)."""
    if absent is None or grid.uniform_panels:
        # Where a place is the weight itself, zeros are known by it.
        return _gather(grid, _count(grid, places, None, skip_zeros=absent is not None))
    tables = _count(grid, places, None, skip_zeros=False)
    bins, zero = grid.zeros(absent, places.dtype)
    flat = tables.view(-1, 2)
    flat[bins, 0] -= absent
    flat[bins, 1] -= absent * zero
    return _gather(grid, tables)


def deposit(grid: Grid, places: Tensor, values: Tensor) -> Tensor:
    """Values carried by the weights, (G, N), gathered on the points: (G, M)."""
    return _gather(grid, _count(grid, places, values.contiguous(), skip_zeros=False))


def interpolate(grid: Grid, function: Tensor, places: Tensor) -> Tensor:
    """A function known at the points, (G, M), at every weight, (G, N)."""
    places, result = places.contiguous(), torch.empty(places.shape, dtype=places.dtype)
    chords = _chords(grid, function)
    call("interpolate", threads(), _parts(places), places, *places.shape, *_bins(grid), *chords, result)
    return result


def chain(grid: Grid, first: Tensor, second: Tensor, places: Tensor, upstream: Tensor) -> Tensor:
    """first * upstream + second at every weight, two functions known at the points: (G, N)."""
    places, upstream = places.contiguous(), upstream.contiguous()
    result = torch.empty(places.shape, dtype=places.dtype)
    chords = _chords(grid, first, second)
    call("chain", threads(), _parts(places), places, upstream, *places.shape, *_bins(grid), *chords, result)
    return result


def _count(grid: Grid, places: Tensor, values: Tensor | None, *, skip_zeros: bool) -> Tensor:
    """Sums over bins and their moments, (G, bins, 2)."""
    places, parts = places.contiguous(), _parts(places)
    tables = torch.empty((parts, grid.groups, grid.size, 2), dtype=torch.float64)
    zeros = int(skip_zeros)
    call("count_places", threads(), parts, places, values, *places.shape, *_bins(grid), zeros, tables)
    return tables[0]


def _gather(grid: Grid, tables: Tensor) -> Tensor:
    points = torch.empty_like(grid.points)
    call("gather", tables, grid.groups, *_panels(grid), points)
    return points


def _chords(grid: Grid, *functions: Tensor) -> tuple[Tensor, Tensor]:
    """Intercepts and slopes of functions at the points, (G, M), over all bins: (F, G, bins) each."""
    intercepts, slopes = torch.empty((2, len(functions), grid.groups, grid.size), dtype=torch.float32)
    for index, function in enumerate(functions):
        panels = _panels(grid)
        call("chords", function.contiguous(), grid.groups, *panels, intercepts[index], slopes[index])
    return intercepts, slopes


def _parts(places: Tensor) -> int:
    return parts_for(places.numel(), _LEAST_PART)


def _bins(grid: Grid) -> tuple[Tensor, Tensor, int]:
    return grid.start, grid.step, grid.size


def _panels(grid: Grid) -> tuple[int, int, Tensor, Tensor, Tensor]:
    resolution = grid.resolution
    return resolution.panels, resolution.bins, grid.start, grid.step, at_edges(resolution.bins)
