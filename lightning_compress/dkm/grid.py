"""A grid between many weights and the few points on which differentiable k-means is evaluated.

The range of a group's weights is cut into panels, each panel into bins. A weight knows its bin by one integer. Sums
over weights of any smooth function use the counts and first moments of the bins; those are gathered on the few
Chebyshev points of each panel, whose polynomial is exact to rounding there. Back at the weights, functions known at
the points are looked up in tables over the bins.
"""

from __future__ import annotations

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

_NARROW_PLACE_BITS = 28
"""Places on a range of at most `_NARROW_PANELS`, where they are computed in double precision."""

_NARROW_PANELS = 4
"""Panels on a range narrow against the temperature.

There every centroid is nearly the mean of the weights, and what single precision rounds would be all of its error.
"""

_LEAST_FRACTION_BITS = 7
"""Bits that a weight's place within its bin has at least, on equal panels."""

_DEPOSIT_BITS = 2
"""Of these, the bits by which deposited values are told apart."""

_USUAL_BINS = 1 << 13
"""Bins that fit the first-level cache with their tables."""


@dataclass(frozen=True)
class Resolution:
    """Panels on the range of each group, and bins on a panel."""

    panels: int
    bins: int

    @classmethod
    def for_panels(cls, panels: int) -> Resolution:
        """As many bins for each of `panels` panels as stay cheap."""
        bins = 1 << max(6, min(8, (_USUAL_BINS // max(panels, 1)).bit_length() - 1))
        return cls(panels, bins)

    def fraction_bits(self, groups: int) -> int:
        """Bits of a weight's place within its bin: as many as single precision and 32 bits for all groups hold."""
        bins = (self.panels * self.bins - 1).bit_length()
        all_bins = (groups * self.panels * self.bins - 1).bit_length()
        places = _NARROW_PLACE_BITS if self.narrow else _PLACE_BITS
        return min(max(places - bins, _LEAST_FRACTION_BITS), 31 - all_bins)

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
        self.fraction_bits = resolution.fraction_bits(self.groups)
        self._edges = edges
        self._width = edges.diff(dim=-1)
        nodes = _nodes().to(edges)
        self.points = (edges[:, :-1, None] + self._width.unsqueeze(-1) * nodes).flatten(1)

    @classmethod
    def uniform(cls, low: Tensor, high: Tensor, resolution: Resolution) -> Grid:
        """Equal panels from the least weight of each group, `low`, to just above the greatest, shapes (G,)."""
        units = (resolution.panels * resolution.bins) << resolution.fraction_bits(low.shape[0])
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
        """Each weight's bin and place within it as one integer.

        Args:
            weights: Shape (G, N), float32.

        Returns:
            Places, shape (G * N,), int32.
        """
        panel_units = self.resolution.bins << self.fraction_bits
        if self.uniform_panels:
            precision = self._edges.dtype if self.resolution.narrow else weights.dtype
            half = torch.full((1, 1), 0.5, dtype=precision, device=weights.device)
            above = weights.to(precision) - self._edges[:, :1].to(precision)
            places = torch.addcmul(half, above, self._scale.to(precision).unsqueeze(-1), out=above)
            places = places.to(torch.int32)
        else:
            inner = self._edges[:, 1:-1].to(weights.dtype)
            if self.groups == 1:
                panels = torch.bucketize(weights[0], inner[0], right=True, out_int32=True).unsqueeze(0)
                low = torch.index_select(self._edges[0].to(weights.dtype), 0, panels[0])
                scale = torch.index_select((panel_units / self._width[0]).to(weights.dtype), 0, panels[0])
            else:
                panels = torch.searchsorted(inner.contiguous(), weights.contiguous(), right=True)
                low = self._edges.to(weights.dtype).gather(1, panels)
                scale = (panel_units / self._width).to(weights.dtype).gather(1, panels)
            inside = (weights - low).mul_(scale).add_(0.5).to(torch.int32).clamp_(max=panel_units - 1)
            places = inside.add_(panels.to(torch.int32), alpha=panel_units)
        if self.groups > 1:
            offsets = torch.arange(self.groups, dtype=torch.int32, device=weights.device)
            places += (offsets * (self.resolution.panels * panel_units)).unsqueeze(-1)
        return places.view(-1)

    def masses(self, places: Tensor, present: Tensor | None = None) -> Tensor:
        """The weights' masses on the points, (G, M): sums over them of a smooth function equal those over weights.

        Args:
            places: As `locate` returned them.
            present: Which weights have a mass, (G * N,); by default all.
        """
        bins = self._bins(places)
        inside = (places & ((1 << self.fraction_bits) - 1)).to(self.points.dtype)
        if present is None:
            count = self._total(bins, None).to(self.points.dtype)
        else:
            mass = present.to(self.points.dtype)
            inside.mul_(mass)
            count = self._total(bins, mass)
        right = self._total(bins, inside) * 2.0**-self.fraction_bits
        edges = F.pad(count - right, (0, 1)) + F.pad(right, (1, 0))
        at_edges, _ = self._matrices()
        return (edges @ at_edges).view(self.groups, -1)

    def deposit(self, places: Tensor, values: Tensor) -> Tensor:
        """Values carried by the weights, (G * N,), gathered on the points: (G, M)."""
        sums = self._total(self._bins(places, _DEPOSIT_BITS), values, _DEPOSIT_BITS)
        _, at_parts = self._matrices()
        return (sums.to(self.points.dtype) @ at_parts).view(self.groups, -1)

    def interpolate(self, function: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        """A function known at the points, (G, M), at every weight: linear within a bin. Shape (G * N,)."""
        bins = self._bins(places)
        base, slope = self._lines(function, weights.dtype)
        return torch.index_select(slope, 0, bins).mul_(weights).add_(torch.index_select(base, 0, bins))

    def chain(
        self, first: Tensor, second: Tensor, places: Tensor, weights: Tensor, upstream: Tensor
    ) -> Tensor:
        """first * upstream + second at every weight, two functions known at the points: (G * N,)."""
        bins = self._bins(places)
        base, slope = self._lines(first, weights.dtype)
        result = torch.index_select(slope, 0, bins).mul_(weights).add_(torch.index_select(base, 0, bins))
        base, slope = self._lines(second, weights.dtype)
        result.mul_(upstream).add_(torch.index_select(base, 0, bins))
        return result.addcmul_(torch.index_select(slope, 0, bins), weights)

    def _bins(self, places: Tensor, extra_bits: int = 0) -> Tensor:
        return places >> (self.fraction_bits - extra_bits)

    def _lines(self, function: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Intercepts and slopes of a function's chords over all bins."""
        at_edges, _ = self._matrices()
        values = function.view(self.groups, -1, POINTS) @ at_edges.T
        width = self._width.unsqueeze(-1) / self.resolution.bins
        slope = values.diff(dim=-1) / width
        steps = torch.arange(self.resolution.bins, dtype=width.dtype, device=width.device)
        base = values[..., :-1] - slope * (self._edges[:, :-1, None] + width * steps)
        return base.reshape(-1).to(dtype), slope.reshape(-1).to(dtype)

    def _matrices(self) -> tuple[Tensor, Tensor]:
        at_edges, at_parts = _basis(self.resolution.bins)
        return at_edges.to(self.points), at_parts.to(self.points)

    def _total(self, places: Tensor, values: Tensor | None, extra_bits: int = 0) -> Tensor:
        """Counts, or sums of values, of the places, (G, panels, bins * 2^extra_bits)."""
        shape = (self.groups, self.resolution.panels, self.resolution.bins << extra_bits)
        size = shape[0] * shape[1] * shape[2]
        if places.device.type == "cpu":
            return torch.bincount(places, weights=values, minlength=size).view(shape)
        # bincount waits for the host to learn the greatest place; index_add does not.
        if values is None:
            values = torch.ones_like(places)
        total = torch.zeros(size, dtype=values.dtype, device=values.device)
        return total.index_add_(0, places, values).view(shape)


@lru_cache(maxsize=1)
def _nodes() -> Tensor:
    """Chebyshev points of the second kind on [0, 1]."""
    angles = np.pi * np.arange(POINTS) / (POINTS - 1)
    return torch.from_numpy((1 - np.cos(angles)) / 2)


@lru_cache(maxsize=64)
def _basis(bins: int) -> tuple[Tensor, Tensor]:
    """Lagrange polynomials of a panel's points at the bins' edges, (bins + 1, POINTS), and at parts of the bins."""
    nodes = _nodes().numpy()
    differences = nodes[:, None] - nodes[None, :]
    np.fill_diagonal(differences, 1.0)

    def evaluate(places: npt.NDArray[np.float64]) -> Tensor:
        factors = (places[:, None, None] - nodes) / differences
        factors[:, np.arange(POINTS), np.arange(POINTS)] = 1.0
        return torch.from_numpy(np.prod(factors, axis=-1))

    parts = bins << _DEPOSIT_BITS
    return evaluate(np.arange(bins + 1) / bins), evaluate((np.arange(parts) + 0.5) / parts)
