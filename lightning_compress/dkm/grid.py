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

_TILE = 1 << 17
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
        for rows, columns in self._tiles(weights):
            places[rows, columns] = self._places(weights[rows, columns], rows)
        return places

    def masses(self, places: Tensor, present: Tensor | None = None) -> Tensor:
        """The weights' masses on the points, (G, M): sums over them of a smooth function equal those over weights.

        Args:
            places: As `locate` returned them.
            present: Which weights have a mass, (G, N); by default all.
        """
        shape = (self.groups, self.resolution.panels, self.resolution.bins)
        counts, moments = self.points.new_zeros(shape), self.points.new_zeros(shape)
        inside = (1 << self.fraction_bits) - 1
        for rows, columns in self._tiles(places):
            tile = places[rows, columns]
            # Counts and first moments in one sum of integers, exact in double precision: the count of a bin is so
            # many bits above the sum of the places inside it that they never meet.
            unit = 2.0 ** (self.fraction_bits + tile.numel().bit_length())
            if self.points.dtype == torch.float64 and unit * tile.numel() < 2**53:
                values = (tile & inside) + torch.tensor(unit, dtype=torch.float64, device=tile.device)
                if present is not None:
                    values.mul_(present[rows, columns])
                total = self._total(tile, rows, values)
                count = torch.floor(total / unit)
                counts[rows] += count
                moments[rows] += total.sub_(count, alpha=unit)
            else:
                values = torch.ones_like(tile) if present is None else present[rows, columns].to(torch.int32)
                counts[rows] += self._total(tile, rows, values)
                moments[rows] += self._total(tile, rows, (tile & inside) * values)
        right = moments.mul_(2.0**-self.fraction_bits)
        edges = F.pad(counts - right, (0, 1)) + F.pad(right, (1, 0))
        at_edges, _ = self._matrices()
        return (edges @ at_edges).flatten(1)

    def deposit(self, places: Tensor, values: Tensor) -> Tensor:
        """Values carried by the weights, (G, N), gathered on the points: (G, M)."""
        shape = (self.groups, self.resolution.panels, self.resolution.bins << self._part_bits)
        sums = self.points.new_zeros(shape)
        for rows, columns in self._tiles(places):
            sums[rows] += self._total(places[rows, columns], rows, values[rows, columns], self._part_bits)
        _, at_parts = self._matrices()
        return (sums @ at_parts).flatten(1)

    def interpolate(self, function: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        """A function known at the points, (G, M), at every weight: linear within a bin. Shape (G, N)."""
        base, slope = self._lines(function, weights.dtype)
        result = torch.empty_like(weights)
        for rows, columns in self._tiles(weights):
            bins = self._bins(places[rows, columns], rows)
            inside = self._inside(places[rows, columns], weights[rows, columns])
            tile = torch.index_select(slope[rows].reshape(-1), 0, bins).mul_(inside)
            tile.add_(torch.index_select(base[rows].reshape(-1), 0, bins))
            result[rows, columns] = tile.view(result[rows, columns].shape)
        return result

    def chain(
        self, first: Tensor, second: Tensor, places: Tensor, weights: Tensor, upstream: Tensor
    ) -> Tensor:
        """first * upstream + second at every weight, two functions known at the points: (G, N)."""
        first_base, first_slope = self._lines(first, weights.dtype)
        second_base, second_slope = self._lines(second, weights.dtype)
        result = torch.empty_like(weights)
        for rows, columns in self._tiles(weights):
            bins = self._bins(places[rows, columns], rows)
            inside = self._inside(places[rows, columns], weights[rows, columns])
            tile = torch.index_select(first_slope[rows].reshape(-1), 0, bins).mul_(inside)
            tile.add_(torch.index_select(first_base[rows].reshape(-1), 0, bins))
            tile.mul_(upstream[rows, columns].reshape(-1))
            tile.add_(torch.index_select(second_base[rows].reshape(-1), 0, bins))
            tile.addcmul_(torch.index_select(second_slope[rows].reshape(-1), 0, bins), inside)
            result[rows, columns] = tile.view(result[rows, columns].shape)
        return result

    def _inside(self, places: Tensor, weights: Tensor) -> Tensor:
        """What chords are functions of, flat: the weight, or where slopes are too steep for it, the place in a bin."""
        if self.uniform_panels:
            return weights.reshape(-1)
        return (
            (places & ((1 << self.fraction_bits) - 1))
            .to(weights.dtype)
            .mul_(2.0**-self.fraction_bits)
            .view(-1)
        )

    def _tiles(self, weights: Tensor) -> Iterator[tuple[slice, slice]]:
        """Tiles of a (G, N) tensor that stay in the cache of a processor; the whole of it on other devices."""
        groups, size = weights.shape
        if weights.device.type != "cpu":
            yield slice(0, groups), slice(0, size)
            return
        rows = max(1, _TILE // size)
        for row in range(0, groups, rows):
            for column in range(0, size, _TILE):
                yield slice(row, min(groups, row + rows)), slice(column, min(size, column + _TILE))

    def _places(self, weights: Tensor, rows: slice) -> Tensor:
        panel_units = self.resolution.bins << self.fraction_bits
        edges = self._edges[rows]
        if self.uniform_panels:
            precision = edges.dtype if self.resolution.narrow else weights.dtype
            above = weights.to(precision) - edges[:, :1].to(precision)
            return above.mul_(self._scale[rows].to(precision).unsqueeze(-1)).add_(0.5).to(torch.int32)
        inner = edges[:, 1:-1].to(weights.dtype).contiguous()
        if edges.shape[0] == 1:
            panels = torch.bucketize(weights, inner[0], right=True)
        else:
            panels = torch.searchsorted(inner, weights.contiguous(), right=True)
        low = edges.to(weights.dtype).gather(1, panels)
        scale = (panel_units / self._width[rows]).to(weights.dtype).gather(1, panels)
        inside = (weights - low).mul_(scale).add_(0.5).to(torch.int32).clamp_(max=panel_units - 1)
        return inside.add_(panels.to(torch.int32), alpha=panel_units)

    def _bins(self, places: Tensor, rows: slice, extra_bits: int = 0) -> Tensor:
        """Index into the flattened bins, or parts of bins, of the groups in `rows`."""
        bins = places >> (self.fraction_bits - extra_bits)
        if bins.shape[0] > 1:
            size = (self.resolution.panels * self.resolution.bins) << extra_bits
            bins += (
                torch.arange(bins.shape[0], dtype=torch.int32, device=bins.device).mul_(size).unsqueeze(-1)
            )
        return bins.reshape(-1)

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

    def _total(self, places: Tensor, rows: slice, values: Tensor, extra_bits: int = 0) -> Tensor:
        """Sums of values over bins, or parts of bins: (rows, panels, bins * 2^extra_bits)."""
        shape = (places.shape[0], self.resolution.panels, self.resolution.bins << extra_bits)
        size = shape[0] * shape[1] * shape[2]
        bins = self._bins(places, rows, extra_bits)
        if bins.device.type == "cpu":
            return torch.bincount(bins, weights=values.reshape(-1), minlength=size).view(shape)
        # bincount waits for the host to learn the greatest place; index_add does not.
        total = torch.zeros(size, dtype=values.dtype, device=values.device)
        return total.index_add_(0, bins, values.reshape(-1)).view(shape)


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
