"""The four passes between weights and a grid, with torch.

Sums over weights of any smooth function use the counts and first moments of the bins; those are gathered on the few
Chebyshev points of each panel, whose polynomial is exact to rounding there. Back at the weights, functions known at
the points are looked up in tables of their chords over the bins.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_compress.dkm.grid import POINTS, Grid, at_edges, placed

_TILE = 1 << 18
"""Weights that are taken through a pass together on a processor: they stay in its second-level cache."""


def masses(grid: Grid, places: Tensor, absent: Tensor | None = None) -> Tensor:
    """The weights' masses on the points, (G, M): sums over them of a smooth function equal those over weights.

    Args:
        grid: Where the points are.
        places: As `Grid.locate` returned them, (G, N).
        absent: For each group the number of zeros that have no mass, (G,); by default all weights have one.
    """
    counts, moments = _moments(grid, places, None)
    if absent is not None:
        bins, zero = grid.zeros(absent, places.dtype)
        counts.view(-1).index_add_(0, bins, absent, alpha=-1)
        moments.view(-1).index_add_(0, bins, absent * grid.within(zero), alpha=-1)
    return gather(grid, counts, moments)


def deposit(grid: Grid, places: Tensor, values: Tensor) -> Tensor:
    """Values carried by the weights, (G, N), gathered on the points: (G, M)."""
    return gather(grid, *_moments(grid, places, values))


def interpolate(grid: Grid, function: Tensor, places: Tensor) -> Tensor:
    """A function known at the points, (G, M), at every weight: linear within a bin. Shape (G, N)."""
    tables = find_chords(grid, function.unsqueeze(0), places.dtype)
    result = torch.empty(places.shape, dtype=places.dtype, device=places.device)
    for rows, columns in _tiles(places):
        tile = places[rows, columns]
        (value,) = _look_up(grid, tables[:, :, rows], tile, rows)
        result[rows, columns] = value
    return result


def chain(grid: Grid, first: Tensor, second: Tensor, places: Tensor, upstream: Tensor) -> Tensor:
    """first * upstream + second at every weight, two functions known at the points: (G, N)."""
    tables = find_chords(grid, torch.stack((first, second)), places.dtype)
    result = torch.empty(places.shape, dtype=places.dtype, device=places.device)
    for rows, columns in _tiles(places):
        factor, shift = _look_up(grid, tables[:, :, rows], places[rows, columns], rows)
        torch.addcmul(shift, factor, upstream[rows, columns], out=result[rows, columns])
    return result


def _moments(grid: Grid, places: Tensor, values: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sums over bins of values, or of ones, and of their products with where in the bin they lie: (G, bins) each."""
    sums = grid.points.new_zeros((2, grid.groups, grid.size))
    for rows, columns in _tiles(places):
        tile = places[rows, columns]
        carried = None if values is None else values[rows, columns].reshape(-1).to(sums.dtype)
        bins = grid.bins(tile, rows)
        tile = grid.within(tile).reshape(-1).to(sums.dtype)
        shape = sums[0, rows].shape
        sums[0, rows] += _total(bins, carried, shape)
        sums[1, rows] += _total(bins, tile if carried is None else tile * carried, shape)
    return sums[0], sums[1]


def gather(grid: Grid, sums: Tensor, moments: Tensor) -> Tensor:
    """What lies in bins, with its moments, gathered on the points: (G, M)."""
    # Moments within the bins are shares of the right edge.
    right = moments
    if grid.uniform_panels:
        right = moments.addcmul_(grid.begin(), sums, value=-1).div_(grid.step.unsqueeze(-1))
    panels = (grid.groups, grid.resolution.panels, grid.resolution.bins)
    right = right.view(panels)
    edges = F.pad(sums.view(panels) - right, (0, 1)) + F.pad(right, (1, 0))
    return (edges @ placed(at_edges, grid.resolution.bins, edges).T).flatten(1)


def find_chords(grid: Grid, functions: Tensor, dtype: torch.dtype) -> Tensor:
    """Intercepts and slopes of chords over all bins of functions known at the points, (F, G, M): (F, 2, G, bins)."""
    panels = (*functions.shape[:-1], grid.resolution.panels)
    values = functions.view(*panels, POINTS) @ placed(at_edges, grid.resolution.bins, functions)
    slope, intercept = values.diff(dim=-1).flatten(2), values[..., :-1].flatten(2)
    if grid.uniform_panels:
        slope.div_(grid.step.unsqueeze(-1))
        intercept.addcmul_(slope, grid.begin(), value=-1)
    return torch.stack((intercept, slope), dim=1).to(dtype)


def _look_up(grid: Grid, tables: Tensor, places: Tensor, rows: slice) -> list[Tensor]:
    """Functions by their chords, (F, 2, G, bins), at places (G, N): F tensors (G, N)."""
    bins, within = grid.bins(places, rows), grid.within(places)
    values = []
    for chords in tables:
        intercept, slope = (torch.index_select(table.reshape(-1), 0, bins) for table in chords)
        values.append(intercept.view(places.shape).addcmul_(slope.view(places.shape), within))
    return values


def _tiles(weights: Tensor) -> Iterator[tuple[slice, slice]]:
    """Tiles of a (G, N) tensor that stay in the cache of a processor; the whole of it on other devices.

    A tile is a part of one group or several whole groups, so that it is contiguous.
    """
    groups, size = weights.shape
    length = _TILE if weights.device.type == "cpu" else weights.numel()
    rows = max(1, length // size)
    for row in range(0, groups, rows):
        for column in range(0, size, length):
            yield slice(row, min(groups, row + rows)), slice(column, min(size, column + length))


def _total(bins: Tensor, values: Tensor | None, shape: torch.Size) -> Tensor:
    """Sums of values, or of ones, over the bins of a tile's groups, in the shape of those."""
    if bins.device.type == "cpu":
        return torch.bincount(bins, weights=values, minlength=shape.numel()).view(shape)
    # bincount waits for the host to learn the greatest place; index_add does not.
    values = torch.ones_like(bins) if values is None else values
    total = torch.zeros(shape.numel(), dtype=values.dtype, device=values.device)
    return total.index_add_(0, bins, values).view(shape)
