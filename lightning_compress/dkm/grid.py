"""A grid between many weights and the few points on which differentiable k-means is evaluated.

The range of a group's weights is cut into panels, each panel into bins. Functions are known at the few Chebyshev
points of each panel, and weights by the bins they lie in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

POINTS = 8
"""Points on a panel; polynomials of degree 7 on a panel of one attention width are good to about 1e-7."""

PART = 8
"""Panels whose points single precision takes together."""

USUAL_BINS = 1 << 14
"""Bins that a processor's nearest caches hold with their tables."""

LEAST_BINS, _MOST_BINS = 64, 512
"""Bins on a panel: chords of what a panel's polynomials can follow are good to 1e-5 and to 1e-6 of it."""

_NARROWEST = 2.0**-20
"""Least width of a group's range, relative to its weights: what single precision tells apart."""

_STEEPEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Resolution:
    """Panels on the range of each group, and bins on a panel."""

    panels: int
    bins: int

    @classmethod
    def for_panels(cls, panels: int, weights: int) -> Resolution:
        """As many bins for each of `panels` panels as stay cheap beside the `weights` of a group."""
        most = min(USUAL_BINS, max(weights, 1))
        return cls(panels, max(LEAST_BINS, min(_MOST_BINS, most // panels)))


class Grid:
    """The panels of G groups of weights.

    A weight's place is what bins are equal intervals of: the weight itself where panels are equal, and a number of
    bins where they are not.

    Args:
        edges: Edges of the panels, ascending, each a float32, shape (G, panels + 1), float64. All weights of a group
            lie between the first and the last.
        resolution: How many panels and bins.

    Attributes:
        uniform_panels: Whether the panels of a group are equal, so that a weight's panel need not be searched for.
        points: The panels' points, (G, panels * POINTS), float64.
        size: Number of bins of a group.
        start: The place at which the bins of each group begin, (G,), float64.
        step: The width of a bin in places, (G,), float64.
    """

    def __init__(self, edges: Tensor, resolution: Resolution) -> None:
        self.resolution = resolution
        self.uniform_panels = False
        self.groups = edges.shape[0]
        self.size = resolution.panels * resolution.bins
        self._edges = edges
        self.points = (
            edges[:, :-1, None] + edges.diff(dim=-1).unsqueeze(-1) * placed(nodes, POINTS, edges)
        ).flatten(1)
        self.start, self.step = edges.new_zeros(self.groups), edges.new_ones(self.groups)

    @classmethod
    def uniform(cls, low: Tensor, high: Tensor, resolution: Resolution) -> Grid:
        """Equal panels from just below the least weight of each group, `low`, to above the greatest, shapes (G,)."""
        grid = cls.__new__(cls)
        grid.resolution = resolution
        grid.uniform_panels = True
        grid.groups = low.shape[0]
        grid.size = resolution.panels * resolution.bins
        width = torch.maximum(high - low, torch.maximum(low.abs(), high.abs()) * _NARROWEST)
        # Half a bin is left on either side for rounding.
        tiny = torch.finfo(torch.float32).tiny
        grid.step = width.clamp_min(tiny * grid.size).div_(grid.size - 1)
        grid.start = torch.sub(low, grid.step, alpha=0.5)
        panel = (grid.step * resolution.bins).unsqueeze(-1)
        start = grid.start.unsqueeze(-1)
        grid._edges = torch.cat((start, start + panel * resolution.panels), dim=-1)
        grid.points = torch.addcmul(start, panel, placed(_equal_panels, resolution.panels, low))
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
        # Nothing lies inside a panel so narrow that this is infinite, and nothing times infinity is no number.
        scale = (self.resolution.bins / edges.diff(dim=-1)).clamp_(max=_STEEPEST)
        scale = scale.to(weights.dtype).gather(1, panels)
        inside = (weights - low).mul_(scale).clamp_(0, self.resolution.bins)
        return inside.add_(panels, alpha=self.resolution.bins).clamp_(max=self.size * (1 - 2.0**-23))

    def find(self, weights: Sequence[Tensor], flat: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The bins of weights of several tensors on panels that are not equal, and where in them each lies.

        Args:
            weights: The tensors, (G, N) each, their groups one after another those of the grid.
            flat: All of them one after another, (N,).
            rows: The group of each, (N,), int32.

        Returns:
            The bin of each, those of all groups one after another, (N,), int32, and the part of it below each, (N,).
        """
        edges, bins, panels = self._edges, self.resolution.bins, self.resolution.panels
        inner = edges[:, 1:-1].to(flat.dtype).contiguous()
        found, first = [], 0
        for values in weights:
            own = inner[first : first + len(values)]
            first += len(values)
            if len(own) == 1:
                found.append(torch.bucketize(values, own[0], right=True, out_int32=True).view(-1))
            else:
                found.append(torch.searchsorted(own, values, right=True, out_int32=True).view(-1))
        index = torch.cat(found).add_(rows, alpha=panels)
        low = edges[:, :-1].to(flat.dtype).reshape(-1)
        # Nothing lies inside a panel so narrow that this is infinite, and nothing times infinity is no number.
        scale = (bins / edges.diff(dim=-1)).clamp_(max=_STEEPEST).to(flat.dtype).view(-1)
        inside = (flat - low.index_select(0, index)).mul_(scale.index_select(0, index)).clamp_(0, bins)
        whole = inside.to(torch.int32).clamp_(max=bins - 1)
        return index.mul_(bins).add_(whole), inside.sub_(whole)

    def begin(self) -> Tensor:
        """The places at which bins begin, (G, bins)."""
        steps = torch.arange(self.size, dtype=self.points.dtype, device=self.points.device)
        return torch.addcmul(self.start.unsqueeze(-1), self.step.unsqueeze(-1), steps)

    def within(self, places: Tensor) -> Tensor:
        """What is linear within each bin: places themselves, or the part of the bin below them where places are bins.

        Places far up, times what is steep, would lose the part in single precision.
        """
        return places if self.uniform_panels else places.frac()

    def count(self, places: Tensor, rows: slice = slice(None)) -> Tensor:
        """Number of bins below places (G, N), those of some groups, and the part of the bin that each lies in."""
        if not self.uniform_panels:
            return places
        start, scale = self.start[rows].unsqueeze(-1), 1 / self.step[rows].unsqueeze(-1)
        return (places - start.to(places.dtype)).mul_(scale.to(places.dtype))

    def bins(self, places: Tensor, rows: slice = slice(None)) -> Tensor:
        """The bin that each place (G, N) lies in, those of all groups one after another: (G * N,), int32."""
        bins = self.count(places, rows).to(torch.int32)
        if bins.shape[0] > 1:
            first = torch.arange(
                0, self.size * bins.shape[0], self.size, dtype=torch.int32, device=places.device
            )
            bins += first.unsqueeze(-1)
        return bins.view(-1)

    def zeros(self, absent: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The bin and the place of zero in each group, (G,); any bin in groups of which no zero is absent."""
        middle = (self._edges[:, :1] + self._edges[:, -1:]) / 2
        zero = self.locate(torch.where(absent.unsqueeze(-1) > 0, 0.0, middle).to(dtype))
        return self.bins(zero).long(), zero.view(-1)


def placed(make: Callable[[int], Tensor], size: int, like: Tensor) -> Tensor:
    """A constant tensor that `make` makes of a size, of the type of another tensor and where that is.

    Copying to a device makes the host wait for all that the device has still to do, so it is done once.
    """
    if type(like) is Tensor:
        return _placed(make, size, like.dtype, like.device)
    return make(size).to(like)


@lru_cache(maxsize=64)
def _placed(make: Callable[[int], Tensor], size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return make(size).to(device, dtype)


@lru_cache(maxsize=1)
def nodes(points: int) -> Tensor:
    """Chebyshev points of the second kind on [0, 1]."""
    angles = np.pi * np.arange(points) / (points - 1)
    return torch.from_numpy((1 - np.cos(angles)) / 2)


@lru_cache(maxsize=64)
def _equal_panels(panels: int) -> Tensor:
    """The points of so many panels of width 1, (panels * POINTS,)."""
    return (torch.arange(panels, dtype=torch.float64).unsqueeze(-1) + nodes(POINTS)).flatten()


@lru_cache(maxsize=16)
def at_edges(bins: int) -> Tensor:
    """Lagrange polynomials of a panel's points at the edges of its bins, (POINTS, bins + 1), float64."""
    places, points = np.arange(bins + 1) / bins, nodes(POINTS).numpy()
    differences = points[:, None] - points[None, :]
    np.fill_diagonal(differences, 1.0)
    factors = (places[:, None, None] - points) / differences
    factors[:, np.arange(POINTS), np.arange(POINTS)] = 1.0
    return torch.from_numpy(np.ascontiguousarray(np.prod(factors, axis=-1).T))
