"""A grid between many weights and the few points on which differentiable k-means is evaluated.

The range of a group's weights is cut into panels, each panel into bins. Sums over weights of any smooth function use
the counts and first moments of the bins; those are gathered on the few Chebyshev points of each panel, whose
polynomial is exact to rounding there. Back at the weights, functions known at the points are looked up in tables over
the bins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

POINTS = 8
"""Points on a panel; polynomials of degree 7 on a panel of one attention width are good to about 1e-7."""

_PARTS = 1 << 9
"""Parts of a panel by which deposited values are told apart, ..."""

_MOST_PARTS = 1 << 15
"""... unless all panels of a group had more than this."""

_TILE = 1 << 18
"""Weights that are taken through all passes together on a processor: they stay in its second-level cache."""

_USUAL_BINS = 1 << 13
"""Bins that fit the first-level cache with their tables."""

_NARROWEST = 2.0**-20
"""Least width of a group's range, relative to its weights: what single precision tells apart."""

_CENTRED = 8.0
"""Weights within so many widths of their range are placed by one multiplication and addition."""


@dataclass(frozen=True)
class Resolution:
    """Panels on the range of each group, and bins on a panel."""

    panels: int
    bins: int

    @classmethod
    def for_panels(cls, panels: int, weights: int) -> Resolution:
        """As many bins for each of `panels` panels as stay cheap beside the `weights` of a group."""
        most = min(_USUAL_BINS, max(weights, 1))
        return cls(panels, 1 << max(6, min(8, (most // panels).bit_length() - 1)))

    @property
    def parts(self) -> int:
        """Parts of a panel, finer than its bins."""
        return max(self.bins, min(_PARTS, 1 << ((_MOST_PARTS // self.panels).bit_length() - 1)))


class Grid:
    """The panels of G groups of weights.

    A weight's place is what bins are equal intervals of: the weight itself where panels are equal, and a number of
    bins where they are not.

    Args:
        edges: Edges of the panels, ascending, each a float32, shape (G, panels + 1), float64. All weights of a group
            lie between the first and the last.
        resolution: How many panels and bins.
        uniform: Whether the panels of a group are equal, so that a weight's panel need not be searched for.

    Attributes:
        points: The panels' points, (G, panels * POINTS), float64.
    """

    def __init__(self, edges: Tensor, resolution: Resolution, *, uniform: bool) -> None:
        self.resolution = resolution
        self.uniform_panels = uniform
        self.groups = edges.shape[0]
        self._edges = edges
        self._width = edges.diff(dim=-1)
        self.points = (edges[:, :-1, None] + self._width.unsqueeze(-1) * _nodes().to(edges)).flatten(1)
        self._size = resolution.panels * resolution.bins
        # Where places begin, and the width of a bin in places.
        self._start, self._step = edges.new_zeros(self.groups), edges.new_ones(self.groups)
        self._fused: tuple[float, float] | None = (0.0, 1.0)

    @classmethod
    def uniform(cls, low: Tensor, high: Tensor, resolution: Resolution) -> Grid:
        """Equal panels from just below the least weight of each group, `low`, to above the greatest, shapes (G,)."""
        tiny = torch.finfo(torch.float32).tiny
        width = torch.maximum(high - low, torch.maximum(low.abs(), high.abs()) * _NARROWEST)
        size = resolution.panels * resolution.bins
        # Half a bin is left on either side for rounding.
        step = width.clamp_min(tiny * size) / (size - 1)
        start = low - step / 2
        steps = torch.arange(resolution.panels + 1, dtype=low.dtype, device=low.device) * resolution.bins
        grid = cls(start.unsqueeze(-1) + step.unsqueeze(-1) * steps, resolution, uniform=True)
        grid._start, grid._step, grid._fused = start, step, None
        if low.device.type == "cpu" and len(low) == 1 and bool(low.abs() <= _CENTRED * width):
            grid._fused = float(start), float(step)
        return grid

    def locate(self, weights: Tensor) -> Tensor:
        """The places of weights (G, N), float32: themselves where panels are equal."""
        if self.uniform_panels:
            return weights
        edges = self._edges
        inner = edges[:, 1:-1].to(weights.dtype).contiguous()
        if self.groups == 1:
            panels = torch.bucketize(weights, inner[0], right=True)
        else:
            panels = torch.searchsorted(inner, weights.contiguous(), right=True)
        low = edges.to(weights.dtype).gather(1, panels)
        scale = (self.resolution.bins / self._width).to(weights.dtype).gather(1, panels)
        inside = (weights - low).mul_(scale).clamp_(0, self.resolution.bins)
        return inside.add_(panels, alpha=self.resolution.bins).clamp_(max=self._size * (1 - 2.0**-23))

    def masses(self, places: Tensor, absent: Tensor | None = None) -> Tensor:
        """The weights' masses on the points, (G, M): sums over them of a smooth function equal those over weights.

        Args:
            places: As `locate` returned them.
            absent: For each group the number of zeros that have no mass, (G,); by default all weights have one.
        """
        counts, moments = self._moments(places, None)
        if absent is not None:
            middle = (self._edges[:, :1] + self._edges[:, -1:]) / 2
            zero = self.locate(torch.where(absent.unsqueeze(-1) > 0, 0.0, middle).to(places.dtype))
            bins = self._intervals(zero, slice(None), self.resolution.bins)
            counts.view(-1).index_add_(0, bins, absent, alpha=-1)
            moments.view(-1).index_add_(0, bins, absent * zero.view(-1), alpha=-1)
        return self._gather(counts, moments)

    def deposit(self, places: Tensor, values: Tensor) -> Tensor:
        """Values carried by the weights, (G, N), gathered on the points: (G, M)."""
        if not self.uniform_panels:
            # Where attention switches steeply, parts would have to be many more than such weights.
            return self._gather(*self._moments(places, values))
        sums = self.points.new_zeros((self.groups, self.resolution.panels * self.resolution.parts))
        for rows, columns in self._tiles(places):
            parts = self._intervals(places[rows, columns], rows, self.resolution.parts)
            sums[rows] += _total(parts, values[rows, columns].reshape(-1), sums[rows].shape)
        at_parts = _at_parts(self.resolution.parts).to(sums)
        return (sums.view(self.groups, self.resolution.panels, -1) @ at_parts).flatten(1)

    def _moments(self, places: Tensor, values: Tensor | None) -> tuple[Tensor, Tensor]:
        """Sums over bins of values, or of ones, and of their products with places: (G, bins) each."""
        sums = self.points.new_zeros((2, self.groups, self._size))
        # Sums over a tile of centred weights lose nothing that matters in single precision.
        single = self._fused is not None and places.device.type == "cpu"
        precision = places.dtype if single else self.points.dtype
        for rows, columns in self._tiles(places):
            tile = places[rows, columns].reshape(-1).to(precision)
            carried = None if values is None else values[rows, columns].reshape(-1).to(precision)
            bins = self._intervals(places[rows, columns], rows, self.resolution.bins)
            shape = sums[0, rows].shape
            sums[0, rows] += _total(bins, carried, shape)
            sums[1, rows] += _total(bins, tile if carried is None else tile * carried, shape)
        return sums[0], sums[1]

    def _gather(self, sums: Tensor, moments: Tensor) -> Tensor:
        """What lies in bins, with its moments, gathered on the points: (G, M)."""
        # Moments within the bins, as shares of the right edge.
        right = moments.addcmul_(self._begin(), sums, value=-1).div_(self._step.unsqueeze(-1))
        panels = (self.groups, self.resolution.panels, self.resolution.bins)
        right = right.view(panels)
        edges = F.pad(sums.view(panels) - right, (0, 1)) + F.pad(right, (1, 0))
        return (edges @ _at_edges(self.resolution.bins).to(edges)).flatten(1)

    def interpolate(self, function: Tensor, places: Tensor) -> Tensor:
        """A function known at the points, (G, M), at every weight: linear within a bin. Shape (G, N)."""
        tables = self._chords(function.unsqueeze(1), places.dtype)
        result = torch.empty(places.shape, dtype=places.dtype, device=places.device)
        for rows, columns in self._tiles(places):
            base, slope = self._look_up(tables[rows], places[rows, columns], rows)
            shape = base.shape
            tile = places[rows, columns].reshape(shape)
            torch.addcmul(base, slope, tile, out=result[rows, columns].view(shape))
        return result

    def chain(self, first: Tensor, second: Tensor, places: Tensor, upstream: Tensor) -> Tensor:
        """first * upstream + second at every weight, two functions known at the points: (G, N)."""
        tables = self._chords(torch.stack((first, second), dim=1), places.dtype)
        result = torch.empty(places.shape, dtype=places.dtype, device=places.device)
        for rows, columns in self._tiles(places):
            factor, shift, factor_slope, shift_slope = self._look_up(tables[rows], places[rows, columns], rows)
            shape = factor.shape
            tile = places[rows, columns].reshape(shape)
            factor.addcmul_(factor_slope, tile)
            shift.addcmul_(shift_slope, tile)
            given = upstream[rows, columns].reshape(shape)
            torch.addcmul(shift, factor, given, out=result[rows, columns].view(shape))
        return result

    def _chords(self, functions: Tensor, dtype: torch.dtype) -> Tensor:
        """Intercepts and then slopes of chords over all bins of functions known at the points, (G, F, M): (G, 2F, bins)."""
        panels = (*functions.shape[:-1], self.resolution.panels)
        values = functions.view(*panels, POINTS) @ _at_edges(self.resolution.bins).to(functions).T
        slope = values.diff(dim=-1).flatten(2).div_(self._step.view(-1, 1, 1))
        base = values[..., :-1].flatten(2).addcmul(slope, self._begin().unsqueeze(1), value=-1)
        return torch.cat((base, slope), dim=1).to(dtype)

    def _begin(self) -> Tensor:
        """The places at which bins begin, (G, bins)."""
        steps = torch.arange(self._size, dtype=self.points.dtype, device=self.points.device)
        return torch.addcmul(self._start.unsqueeze(-1), self._step.unsqueeze(-1), steps)

    def _tiles(self, weights: Tensor) -> Iterator[tuple[slice, slice]]:
        """Tiles of a (G, N) tensor that stay in the cache of a processor; the whole of it on other devices.

        A tile is a part of one group or several whole groups, so that it is contiguous.
        """
        groups, size = weights.shape
        length = _TILE if weights.device.type == "cpu" else weights.numel()
        rows = max(1, length // size)
        for row in range(0, groups, rows):
            for column in range(0, size, length):
                yield slice(row, min(groups, row + rows)), slice(column, min(size, column + length))

    def _intervals(self, places: Tensor, rows: slice, divisions: int) -> Tensor:
        """The bin or part that each place of a tile lies in, all panels of all its groups one after another."""
        intervals = self._count(places, rows, divisions / self.resolution.bins, 0.0).to(torch.int32)
        if intervals.shape[0] > 1:
            size = self.resolution.panels * divisions
            first = torch.arange(0, size * intervals.shape[0], size, dtype=torch.int32, device=places.device)
            intervals += first.unsqueeze(-1)
        return intervals.view(-1)

    def _look_up(self, tables: Tensor, places: Tensor, rows: slice) -> tuple[Tensor, ...]:
        """Tables over bins, (G, F, bins), at places (G, N): F tensors (G, N), those of one group in another shape.

        Sampling an image of one line takes all processors and a quarter of the time of indexing.
        """
        # Line pixels lie from -1 to 1, their centres on the ends; a place belongs to the pixel of its bin.
        scale = 2 / (self._size - 1)
        line = self._count(places, rows, scale, -1 - scale / 2)
        if line.shape[0] == 1:
            threads = torch.get_num_threads() if line.device.type == "cpu" else 1
            line = line.view(threads if line.numel() % threads == 0 else 1, -1)
        # The line is one pixel high: any second coordinate means the same.
        where = line[:, None, :, None].expand(-1, -1, -1, 2)
        images = tables.unsqueeze(-2).expand(line.shape[0], -1, -1, -1)
        sampled = F.grid_sample(images, where, mode="nearest", padding_mode="border", align_corners=True)
        return sampled.squeeze(-2).unbind(dim=1)

    def _count(self, places: Tensor, rows: slice, factor: float, shift: float) -> Tensor:
        """Number of bins below places, times a factor, plus a shift."""
        if self._fused is not None:
            start, step = self._fused
            constant = torch.tensor(shift - start / step * factor, dtype=places.dtype)
            return torch.add(constant, places, alpha=factor / step)
        start, scale = self._start[rows].unsqueeze(-1), factor / self._step[rows].unsqueeze(-1)
        return (places - start.to(places.dtype)).mul_(scale.to(places.dtype)).add_(shift)


def _total(intervals: Tensor, values: Tensor | None, shape: torch.Size) -> Tensor:
    """Sums of values, or of ones, over the intervals of a tile's groups, in the shape of those."""
    if intervals.device.type == "cpu":
        return torch.bincount(intervals, weights=values, minlength=shape.numel()).view(shape)
    # bincount waits for the host to learn the greatest place; index_add does not.
    values = torch.ones_like(intervals) if values is None else values
    total = torch.zeros(shape.numel(), dtype=values.dtype, device=values.device)
    return total.index_add_(0, intervals, values).view(shape)


@lru_cache(maxsize=1)
def _nodes() -> Tensor:
    """Chebyshev points of the second kind on [0, 1]."""
    angles = np.pi * np.arange(POINTS) / (POINTS - 1)
    return torch.from_numpy((1 - np.cos(angles)) / 2)


@lru_cache(maxsize=16)
def _at_edges(bins: int) -> Tensor:
    """Lagrange polynomials of a panel's points at the edges of its bins, (bins + 1, POINTS)."""
    return _polynomials(np.arange(bins + 1) / bins)


@lru_cache(maxsize=16)
def _at_parts(parts: int) -> Tensor:
    """Lagrange polynomials of a panel's points at the middles of its parts, (parts, POINTS)."""
    return _polynomials((np.arange(parts) + 0.5) / parts)


def _polynomials(places: npt.NDArray[np.float64]) -> Tensor:
    nodes = _nodes().numpy()
    differences = nodes[:, None] - nodes[None, :]
    np.fill_diagonal(differences, 1.0)
    factors = (places[:, None, None] - nodes) / differences
    factors[:, np.arange(POINTS), np.arange(POINTS)] = 1.0
    return torch.from_numpy(np.prod(factors, axis=-1))
