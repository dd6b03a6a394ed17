"""The four passes between weights and a grid, in C: as `dkm.passes`, which see."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from lightning_compress.dkm.grid import Grid, at_edges
from lightning_compress.dkm.native import load, pointer, whole


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
    intercepts, slopes = _chords(grid, function.unsqueeze(0))
    places, result = places.contiguous(), torch.empty(places.shape, dtype=places.dtype)
    _library().interpolate(
        pointer(places), *_shape(places), *_bins(grid), pointer(intercepts), pointer(slopes), pointer(result)
    )
    return result


def chain(grid: Grid, first: Tensor, second: Tensor, places: Tensor, upstream: Tensor) -> Tensor:
    """first * upstream + second at every weight, two functions known at the points: (G, N)."""
    intercepts, slopes = _chords(grid, torch.stack((first, second)))
    places, upstream = places.contiguous(), upstream.contiguous()
    result = torch.empty(places.shape, dtype=places.dtype)
    _library().chain(
        pointer(places),
        pointer(upstream),
        *_shape(places),
        *_bins(grid),
        pointer(intercepts),
        pointer(slopes),
        pointer(result),
    )
    return result


def _count(grid: Grid, places: Tensor, values: Tensor | None, *, skip_zeros: bool) -> Tensor:
    """Sums over bins and their moments, (G, bins, 2)."""
    tables = torch.zeros((grid.groups, grid.size, 2), dtype=torch.float64)
    places = places.contiguous()
    _library().count_places(
        pointer(places),
        pointer(values),
        *_shape(places),
        *_bins(grid),
        whole(skip_zeros),
        pointer(tables),
    )
    return tables


def _gather(grid: Grid, tables: Tensor) -> Tensor:
    points = torch.empty_like(grid.points)
    _library().gather(pointer(tables), *_panels(grid), pointer(points))
    return points


def _chords(grid: Grid, functions: Tensor) -> tuple[Tensor, Tensor]:
    """Intercepts and slopes of functions (F, G, M) over all bins: (F, G, bins) each."""
    functions = functions.contiguous()
    intercepts, slopes = torch.empty((2, len(functions), grid.groups, grid.size), dtype=torch.float32)
    for function, intercept, slope in zip(functions, intercepts, slopes, strict=True):
        _library().chords(pointer(function), *_panels(grid), pointer(intercept), pointer(slope))
    return intercepts, slopes


def _shape(places: Tensor) -> tuple[ctypes.c_int64, ctypes.c_int64]:
    return whole(places.shape[0]), whole(places.shape[1])


def _bins(grid: Grid) -> tuple[ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]:
    return pointer(grid.start), pointer(grid.step), whole(grid.size)


def _panels(grid: Grid) -> tuple[object, ...]:
    resolution = grid.resolution
    return (
        whole(grid.groups),
        whole(resolution.panels),
        whole(resolution.bins),
        pointer(grid.start),
        pointer(grid.step),
        pointer(at_edges(resolution.bins)),
    )


def _library() -> ctypes.CDLL:
    library = load()
    assert library is not None
    return library
