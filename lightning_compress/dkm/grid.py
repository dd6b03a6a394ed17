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
import torch
from torch import Tensor

POINTS = 8
"""Points on a panel; polynomials of degree 7 on a panel of one attention width are good to about 1e-7."""

_MOST_PLACE_BITS = 22
"""Places on the range of a group that single precision tells apart."""

_PLACE_BITS = 20
"""Places that it also rounds with next to no bias."""

_NARROW_PANELS = 4
"""Up to this many panels places are computed in double precision."""

_LEAST_FRACTION_BITS = 7
"""Bits that a weight's place within its bin has at least."""

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
        bins = 1 << max(5, min(8, (_USUAL_BINS // max(panels, 1)).bit_length() - 1))
        return cls(panels, bins)

    @property
    def fits(self) -> bool:
        """Whether single precision tells the places in all bins apart."""
        return self.panels * self.bins <= 1 << (_MOST_PLACE_BITS - _LEAST_FRACTION_BITS)

    def fraction_bits(self, groups: int) -> int:
        """Bits of a weight's place within its bin: as many as single precision and 32 bits for all groups hold."""
        bins = (self.panels * self.bins - 1).bit_length()
        all_bins = (groups * self.panels * self.bins - 1).bit_length()
        return min(max(_PLACE_BITS - bins, _LEAST_FRACTION_BITS), 31 - all_bins)


@lru_cache(maxsize=64)
def _basis(bins: int) -> tuple[Tensor, Tensor]:
    """Lagrange polynomials of a panel's points at the bins' edges, (bins + 1, POINTS), and at parts of the bins."""
    angles = np.pi * np.arange(POINTS) / (POINTS - 1)
    nodes = (1 - np.cos(angles)) / 2
    differences = nodes[:, None] - nodes[None, :]
    np.fill_diagonal(differences, 1.0)

    def evaluate(places: np.ndarray) -> Tensor:
        factors = (places[:, None, None] - nodes) / differences
        factors[:, np.arange(POINTS), np.arange(POINTS)] = 1.0
        return torch.from_numpy(np.prod(factors, axis=-1))

    parts = bins << _DEPOSIT_BITS
    return evaluate(np.arange(bins + 1) / bins), evaluate((np.arange(parts) + 0.5) / parts)


@lru_cache(maxsize=1)
def _nodes() -> Tensor:
    angles = np.pi * np.arange(POINTS) / (POINTS - 1)
    return torch.from_numpy((1 - np.cos(angles)) / 2)


class Grid:
    """The panels of G groups of weights and every weight's place on them.

    Args:
        weights: Shape (G, N), float32 or float64.
        low: Least weight of each group, shape (G,), float64.
        high: Greatest weight of each group.
        resolution: How fine.

    Attributes:
        points: The panels' points, (G, panels * POINTS), float64.
        places: Each weight's bin and place within it, (G * N,), int32: what backward needs.
    """

    def __init__(self, weights: Tensor, low: Tensor, high: Tensor, resolution: Resolution) -> None:
        self.resolution = resolution
        self.groups = weights.shape[0]
        self.fraction_bits = resolution.fraction_bits(self.groups)
        units = (resolution.panels * resolution.bins) << self.fraction_bits
        # On a range narrow against the temperature every centroid is nearly the mean of the weights, and the ties that
        # single precision rounds up would be all of its error.
        narrow = resolution.panels <= _NARROW_PANELS
        precision = low.dtype if narrow else weights.dtype
        width = (high - low).clamp_min(torch.finfo(torch.float32).tiny)
        scale = ((units - 1) / width).to(precision).unsqueeze(-1)
        half = torch.full((1, 1), 0.5, dtype=precision, device=weights.device)
        above = weights.to(precision) - low.to(precision).unsqueeze(-1)
        places = torch.addcmul(half, above, scale, out=above).to(torch.int32)
        if self.groups > 1:
            places += (
                torch.arange(self.groups, device=weights.device).mul_(units).unsqueeze(-1).to(torch.int32)
            )
        self.places = places.view(-1)
        # Bins are as wide as the rounded scale makes them: the same rounding for all weights would shift their mean.
        panel = units / scale.view(-1).to(low.dtype) / resolution.panels
        edges = low.unsqueeze(-1) + panel.unsqueeze(-1) * torch.arange(
            resolution.panels, dtype=low.dtype, device=low.device
        )
        nodes = _nodes().to(device=low.device, dtype=low.dtype)
        self.points = (edges.unsqueeze(-1) + panel.view(-1, 1, 1) * nodes).view(self.groups, -1)
        self._low = low
        self._bin = panel / resolution.bins

    def masses(self, weights: Tensor | None = None) -> Tensor:
        """The weights' masses on the points, (G, M): sums over them of a smooth function equal those over weights.

        Args:
            weights: If given, shape (G * N,), zeros among them have no mass.
        """
        inside = self.places & ((1 << self.fraction_bits) - 1)
        shape = (self.groups, self.resolution.panels, self.resolution.bins)
        bins = self._bins()
        inside = inside.to(self.points.dtype)
        if weights is None:
            count = self._total(bins, None)
        else:
            present = (weights != 0).to(self.points.dtype)
            inside = inside.mul_(present)
            count = self._total(bins, present)
        count = count.view(shape).to(self.points.dtype)
        right = self._total(bins, inside).view(shape) * 2.0**-self.fraction_bits
        edges = torch.nn.functional.pad(count - right, (0, 1)) + torch.nn.functional.pad(right, (1, 0))
        at_edges, _ = self._matrices()
        return (edges @ at_edges).view(self.groups, -1)

    def deposit(self, values: Tensor) -> Tensor:
        """Values carried by the weights, (G * N,), gathered on the points: (G, M)."""
        sums = self._total(self._bins(_DEPOSIT_BITS), values, _DEPOSIT_BITS)
        _, at_parts = self._matrices()
        shape = (self.groups, self.resolution.panels, self.resolution.bins << _DEPOSIT_BITS)
        return (sums.view(shape).to(self.points.dtype) @ at_parts).view(self.groups, -1)

    def interpolate(self, function: Tensor, weights: Tensor) -> Tensor:
        """A function known at the points, (G, M), at every weight: linear within a bin. Shape (G * N,)."""
        bins = self._bins()
        base, slope = self._lines(function, weights.dtype)
        return torch.index_select(slope, 0, bins).mul_(weights).add_(torch.index_select(base, 0, bins))

    def chain(self, first: Tensor, second: Tensor, weights: Tensor, upstream: Tensor) -> Tensor:
        """first * upstream + second at every weight, two functions known at the points: (G * N,)."""
        bins = self._bins()
        base, slope = self._lines(first, weights.dtype)
        result = torch.index_select(slope, 0, bins).mul_(weights).add_(torch.index_select(base, 0, bins))
        base, slope = self._lines(second, weights.dtype)
        result.mul_(upstream).add_(torch.index_select(base, 0, bins))
        return result.addcmul_(torch.index_select(slope, 0, bins), weights)

    def _bins(self, extra_bits: int = 0) -> Tensor:
        return self.places >> (self.fraction_bits - extra_bits)

    def _lines(self, function: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Intercepts and slopes of a function's chords over all bins."""
        at_edges, _ = self._matrices()
        edges = function.view(self.groups, self.resolution.panels, POINTS) @ at_edges.T
        slope = edges.diff(dim=-1) / self._bin.view(-1, 1, 1)
        steps = torch.arange(slope[0].numel(), dtype=slope.dtype, device=slope.device)
        left = (self._low.unsqueeze(-1) + self._bin.unsqueeze(-1) * steps).view_as(slope)
        base = edges[..., :-1] - slope * left
        return base.reshape(-1).to(dtype), slope.reshape(-1).to(dtype)

    def _matrices(self) -> tuple[Tensor, Tensor]:
        at_edges, at_parts = _basis(self.resolution.bins)
        return at_edges.to(self.points), at_parts.to(self.points)

    def _total(self, places: Tensor, values: Tensor | None, extra_bits: int = 0) -> Tensor:
        """Counts, or sums of values, over the G * panels * bins * 2^extra_bits places."""
        size = (self.groups * self.resolution.panels * self.resolution.bins) << extra_bits
        if places.device.type == "cpu":
            return torch.bincount(places, weights=values, minlength=size)
        # bincount waits for the host to learn the greatest place; index_add does not.
        if values is None:
            values = torch.ones_like(places)
        return torch.zeros(size, dtype=values.dtype, device=values.device).index_add_(0, places, values)
