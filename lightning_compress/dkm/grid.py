"""A grid between many weights and the few points on which differentiable k-means is evaluated.

The range of a group's weights is cut into panels, each panel into bins. A weight knows its bin by one integer. Sums
over weights of any smooth function use the counts and first moments of the bins; those are gathered on the few
Chebyshev points of each panel, whose polynomial is exact to rounding there. Back at the weights, functions known at
the points are looked up in tables over the bins.
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

_PLACE_BITS = 22
"""Places on the range of a group that single precision tells apart."""

_NARROW_PLACE_BITS = 26
"""Places on a range of at most `_NARROW_PANELS`, where they are computed in double precision."""

_NARROW_PANELS = 4
"""Panels on a range narrow against the temperature.

There every centroid is nearly the mean of the weights, and what single precision rounds would be all of its error.
"""

_LEAST_FRACTION_BITS = 7
"""Bits that a weight's place within its bin has at least, on equal panels."""

_PARTS = 1 << 10
"""Parts of a panel by which deposited values are told apart, ..."""

_MOST_PARTS = 1 << 17
"""... unless all panels of a group had more than this."""

_TILE = 1 << 16
"""Weights that are taken through all passes together on a processor: they stay in its second-level cache."""

_USUAL_BINS = 1 << 13
"""Bins that fit the first-level cache with their tables."""


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
    def fraction_bits(self) -> int:
        """Bits of a weight's place within its bin: as many as single precision holds."""
        bins = (self.panels * self.bins - 1).bit_length()
        places = _NARROW_PLACE_BITS if self.narrow else _PLACE_BITS
        return max(places - bins, _LEAST_FRACTION_BITS)

    @property
    def narrow(self) -> bool:
        """Whether the range is narrow against the temperature."""
        return self.panels <= _NARROW_PANELS


class Grid:
    """The panels of G groups of weights.

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
        self.fraction_bits = resolution.fraction_bits
        parts = min(_PARTS, _MOST_PARTS // resolution.panels) // resolution.bins
        self._part_bits = min(max(1, parts.bit_length() - 1), self.fraction_bits)
        self._edges = edges
        self._width = edges.diff(dim=-1)
        nodes = _nodes().to(edges)
        self.points = (edges[:, :-1, None] + self._width.unsqueeze(-1) * nodes).flatten(1)

    @classmethod
    def uniform(cls, low: Tensor, high: Tensor, resolution: Resolution) -> Grid:
        """Equal panels from the least weight of each group, `low`, to just above the greatest, shapes (G,)."""
        units = (resolution.panels * resolution.bins) << resolution.fraction_bits
        width = (high - low).clamp_min(torch.finfo(torch.float32).tiny)
        # Bins are as wide as the rounded scale makes them: the same rounding for all weights would shift their mean.
        # The scale is one unit short, so that the greatest weight lies in the last bin.
        scale = (units - 1) / width
        scale = scale if resolution.narrow else scale.to(torch.float32).to(low.dtype)
        steps = torch.arange(resolution.panels + 1, dtype=low.dtype, device=low.device) / resolution.panels
        grid = cls(low.unsqueeze(-1) + (units / scale).unsqueeze(-1) * steps, resolution, uniform=True)
        grid._scale = scale
        return grid

    _scale: Tensor

    def locate(self, weights: Tensor) -> Tensor:
        """Each weight's bin in its group and its place within the bin, as one integer: shape (G, N), int32."""
        places = torch.empty(weights.shape, dtype=torch.int32, device=weights.device)
        above = self._scratch(weights, self._edges.dtype if self.resolution.narrow else weights.dtype)
        for rows, columns in self._tiles(weights):
            tile = weights[rows, columns]
            if self.uniform_panels:
                inside = above[: tile.numel()].view(tile.shape)
                torch.sub(tile, self._edges[rows, :1].to(above.dtype), out=inside)
                inside.mul_(self._scale[rows].to(above.dtype).unsqueeze(-1)).add_(0.5)
                places[rows, columns].copy_(inside)
            else:
                places[rows, columns] = self._search(tile, rows)
        return places

    def _search(self, weights: Tensor, rows: slice) -> Tensor:
        """Places on panels that differ in width."""
        panel_units = self.resolution.bins << self.fraction_bits
        edges = self._edges[rows]
        inner = edges[:, 1:-1].to(weights.dtype).contiguous()
        if edges.shape[0] == 1:
            panels = torch.bucketize(weights, inner[0], right=True)
        else:
            panels = torch.searchsorted(inner, weights.contiguous(), right=True)
        low = edges.to(weights.dtype).gather(1, panels)
        scale = (panel_units / self._width[rows]).to(weights.dtype).gather(1, panels)
        inside = (weights - low).mul_(scale).add_(0.5).to(torch.int32).clamp_(max=panel_units - 1)
        return inside.add_(panels.to(torch.int32), alpha=panel_units)

    def masses(self, places: Tensor, present: Tensor | None = None) -> Tensor:
        """The weights' masses on the points, (G, M): sums over them of a smooth function equal those over weights.

        Args:
            places: As `locate` returned them.
            present: Which weights have a mass, (G, N); by default all.
        """
        shape = (self.groups, self.resolution.panels, self.resolution.bins)
        counts, moments, packed = (self.points.new_zeros(shape) for _ in range(3))
        bins, inside = self._scratch(places, torch.int32), self._scratch(places, torch.int32)
        values = self._scratch(places, self.points.dtype)
        # Counts and first moments in one sum of integers, exact in double precision: the count of a bin is so many
        # bits above the sum of the places inside it that they never meet.
        room = 1 << min(20, (52 - self.fraction_bits) // 2)
        unit = torch.tensor(float(room << self.fraction_bits), dtype=values.dtype, device=places.device)
        packable = values.dtype == torch.float64 and self._tile_size(places) <= room
        taken = 0
        for rows, columns in self._tiles(places):
            tile = places[rows, columns]
            size = tile.numel()
            self._into_bins(tile, bins)
            torch.bitwise_and(tile.view(-1), (1 << self.fraction_bits) - 1, out=inside[:size])
            mass = None if present is None else present[rows, columns].reshape(-1)
            if packable:
                if taken + size > room:
                    self._unpack(packed, unit, counts, moments)
                    taken = 0
                taken += size
                torch.add(inside[:size], unit, out=values[:size])
                if mass is not None:
                    values[:size].mul_(mass)
                packed[rows].add_(self._total(bins[:size], values[:size], packed[rows].shape))
            else:
                ones = torch.ones_like(inside[:size]) if mass is None else mass.to(torch.int32)
                counts[rows].add_(self._total(bins[:size], ones, counts[rows].shape))
                moments[rows].add_(self._total(bins[:size], inside[:size].mul_(ones), counts[rows].shape))
        self._unpack(packed, unit, counts, moments)
        right = moments.mul_(2.0**-self.fraction_bits)
        edges = F.pad(counts - right, (0, 1)) + F.pad(right, (1, 0))
        at_edges, _ = self._matrices()
        return (edges @ at_edges).flatten(1)

    @staticmethod
    def _unpack(packed: Tensor, unit: Tensor, counts: Tensor, moments: Tensor) -> None:
        count = torch.floor(packed / unit)
        counts.add_(count)
        moments.add_(packed).addcmul_(count, unit, value=-1)
        packed.zero_()

    def deposit(self, places: Tensor, values: Tensor) -> Tensor:
        """Values carried by the weights, (G, N), gathered on the points: (G, M)."""
        shape = (self.groups, self.resolution.panels, self.resolution.bins << self._part_bits)
        sums = self.points.new_zeros(shape)
        parts = self._scratch(places, torch.int32)
        for rows, columns in self._tiles(places):
            tile = values[rows, columns].reshape(-1)
            self._into_bins(places[rows, columns], parts, self._part_bits)
            sums[rows].add_(self._total(parts[: tile.numel()], tile, sums[rows].shape))
        _, at_parts = self._matrices()
        return (sums @ at_parts).flatten(1)

    def interpolate(self, function: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        """A function known at the points, (G, M), at every weight: linear within a bin. Shape (G, N)."""
        base, slope = self._lines(function, weights.dtype)
        result = torch.empty_like(weights)
        bins, other = self._scratch(places, torch.int32), self._scratch(weights, weights.dtype)
        for rows, columns in self._tiles(weights):
            tile = result[rows, columns].view(-1)
            self._into_bins(places[rows, columns], bins)
            inside = self._inside(places[rows, columns], weights[rows, columns])
            _look_up(slope[rows], bins, tile).mul_(inside)
            tile.add_(_look_up(base[rows], bins, other[: tile.numel()]))
        return result

    def chain(
        self, first: Tensor, second: Tensor, places: Tensor, weights: Tensor, upstream: Tensor
    ) -> Tensor:
        """first * upstream + second at every weight, two functions known at the points: (G, N)."""
        first_base, first_slope = self._lines(first, weights.dtype)
        second_base, second_slope = self._lines(second, weights.dtype)
        result = torch.empty_like(weights)
        bins, scratch = self._scratch(places, torch.int32), self._scratch(weights, weights.dtype)
        for rows, columns in self._tiles(weights):
            tile = result[rows, columns].view(-1)
            other = scratch[: tile.numel()]
            self._into_bins(places[rows, columns], bins)
            inside = self._inside(places[rows, columns], weights[rows, columns])
            _look_up(first_slope[rows], bins, tile).mul_(inside)
            tile.add_(_look_up(first_base[rows], bins, other))
            tile.mul_(upstream[rows, columns].reshape(-1))
            tile.add_(_look_up(second_base[rows], bins, other))
            tile.addcmul_(_look_up(second_slope[rows], bins, other), inside)
        return result

    def _inside(self, places: Tensor, weights: Tensor) -> Tensor:
        """What chords are functions of, flat: the weight, or where slopes are too steep for it, the place in a bin."""
        if self.uniform_panels:
            return weights.reshape(-1)
        inside = places & ((1 << self.fraction_bits) - 1)
        return inside.to(weights.dtype).mul_(2.0**-self.fraction_bits).view(-1)

    def _tiles(self, weights: Tensor) -> Iterator[tuple[slice, slice]]:
        """Tiles of a (G, N) tensor that stay in the cache of a processor; the whole of it on other devices.

        A tile is a part of one group or several whole groups, so that it is contiguous.
        """
        groups, size = weights.shape
        length = self._tile_size(weights)
        rows = max(1, length // size)
        for row in range(0, groups, rows):
            for column in range(0, size, length):
                yield slice(row, min(groups, row + rows)), slice(column, min(size, column + length))

    @staticmethod
    def _tile_size(weights: Tensor) -> int:
        return _TILE if weights.device.type == "cpu" else weights.numel()

    def _scratch(self, weights: Tensor, dtype: torch.dtype) -> Tensor:
        """Room for a value for each weight of a tile, used for every tile so that it stays in the cache."""
        return torch.empty(min(self._tile_size(weights), weights.numel()), dtype=dtype, device=weights.device)

    def _into_bins(self, places: Tensor, bins: Tensor, extra_bits: int = 0) -> None:
        """Write the indices into the flattened bins, or parts of bins, of a tile's groups to the start of `bins`."""
        indices = bins[: places.numel()].view(places.shape)
        torch.bitwise_right_shift(places, self.fraction_bits - extra_bits, out=indices)
        if places.shape[0] > 1:
            size = (self.resolution.panels * self.resolution.bins) << extra_bits
            indices += (
                torch.arange(places.shape[0], dtype=torch.int32, device=bins.device).mul_(size).unsqueeze(-1)
            )

    def _lines(self, function: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Intercepts and slopes of a function's chords over all bins, (G, panels * bins)."""
        at_edges, _ = self._matrices()
        values = function.view(self.groups, -1, POINTS) @ at_edges.T
        base, slope = values[..., :-1], values.diff(dim=-1)
        if self.uniform_panels:
            width = self._width.unsqueeze(-1) / self.resolution.bins
            steps = torch.arange(self.resolution.bins, dtype=width.dtype, device=width.device)
            slope = slope / width
            base = base - slope * (self._edges[:, :-1, None] + width * steps)
        return base.flatten(1).to(dtype), slope.flatten(1).to(dtype)

    def _matrices(self) -> tuple[Tensor, Tensor]:
        at_edges, at_parts = _basis(self.resolution.bins, self._part_bits)
        return at_edges.to(self.points), at_parts.to(self.points)

    @staticmethod
    def _total(bins: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
        """Sums of values over the bins of a tile's groups, in the shape of those."""
        if bins.device.type == "cpu":
            return torch.bincount(bins, weights=values, minlength=shape.numel()).view(shape)
        # bincount waits for the host to learn the greatest place; index_add does not.
        total = torch.zeros(shape.numel(), dtype=values.dtype, device=values.device)
        return total.index_add_(0, bins, values).view(shape)


def _look_up(table: Tensor, bins: Tensor, out: Tensor) -> Tensor:
    return torch.index_select(table.reshape(-1), 0, bins[: out.numel()], out=out)


@lru_cache(maxsize=1)
def _nodes() -> Tensor:
    """Chebyshev points of the second kind on [0, 1]."""
    angles = np.pi * np.arange(POINTS) / (POINTS - 1)
    return torch.from_numpy((1 - np.cos(angles)) / 2)


@lru_cache(maxsize=64)
def _basis(bins: int, part_bits: int) -> tuple[Tensor, Tensor]:
    """Lagrange polynomials of a panel's points at the bins' edges, (bins + 1, POINTS), and at parts of the bins."""
    nodes = _nodes().numpy()
    differences = nodes[:, None] - nodes[None, :]
    np.fill_diagonal(differences, 1.0)

    def evaluate(places: npt.NDArray[np.float64]) -> Tensor:
        factors = (places[:, None, None] - nodes) / differences
        factors[:, np.arange(POINTS), np.arange(POINTS)] = 1.0
        return torch.from_numpy(np.prod(factors, axis=-1))

    parts = bins << part_bits
    return evaluate(np.arange(bins + 1) / bins), evaluate((np.arange(parts) + 0.5) / parts)
