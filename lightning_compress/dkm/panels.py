"""How finely the range of a weight must be resolved, and where.

Attention switches from one centroid to the next over a width of about temperature / gap, or of sqrt(temperature) among
centroids nearer to one another than that. A panel on which its functions are polynomials of low degree may be that
wide at a switch, and wider in proportion to the distance from it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_compress.dkm import attention
from lightning_compress.dkm.attention import Clustering
from lightning_compress.dkm.grid import POINTS, Grid, Resolution

_UNIFORM_SIZE = 1 << 18
"""Points times centroids up to which equal panels are used: they need no search for a weight's panel."""

_MOST_UNIFORM_PANELS = 512
"""More equal panels than this need more bins than single precision tells apart."""

_MOST_PANELS = 1 << 14
"""More panels than this, and weights are evaluated one by one."""

_FORECAST_BINS = 1 << 13
"""Bins on which the next palettes are estimated before the panels are laid out for them."""

_SAFETY = 1.25
"""How much narrower panels are than the estimate asks."""

FloatArray = npt.NDArray[np.float64]


def plan(weights: Tensor, low: Tensor, high: Tensor, palette: Tensor, clustering: Clustering) -> Grid | None:
    """Lay out panels for weights on the CPU.

    Args:
        weights: Shape (G, N), float32.
        low: Least weight of each group, (G,), float64.
        high: Greatest weight of each group.
        palette: Centroids before the first iteration, (G, K), float64.
        clustering: What will be done with them.

    Returns:
        The grid, or None where weights are better evaluated one by one: few weights, or a range that single precision
        cannot place them on.
    """
    width = float((high - low).max())
    if not 1e-30 < width < 1e30:
        return None
    panels = max(1, math.ceil(width * _greatest_rate(low, high, palette, clustering.temperature)))
    clusters = palette.shape[-1]
    if panels <= _MOST_UNIFORM_PANELS and panels * POINTS * clusters <= _UNIFORM_SIZE:
        return (
            None
            if _exact_is_cheaper(weights, panels)
            else Grid.uniform(low, high, Resolution.for_panels(panels, weights.shape[-1]))
        )
    edges = [
        _edges(group, float(bottom), float(top), centroids, clustering)
        for group, bottom, top, centroids in zip(weights, low, high, palette, strict=True)
    ]
    panels = max(len(group) for group in edges) - 1
    if panels > _MOST_PANELS or _exact_is_cheaper(weights, panels):
        return None
    padded = torch.from_numpy(np.stack([_pad(group, panels + 1) for group in edges]))
    return Grid(padded.to(low), Resolution.for_panels(panels, weights.shape[-1]), uniform=False)


def _exact_is_cheaper(weights: Tensor, panels: int) -> bool:
    return weights.shape[-1] <= panels * POINTS


def _greatest_rate(low: Tensor, high: Tensor, palette: Tensor, temperature: float) -> float:
    """Greatest rate at which attention changes, in units of 1 / weight: 2 / temperature times its spread."""
    ordered = palette.sort(dim=-1).values
    middle = (ordered[:, 1:] + ordered[:, :-1]) / 2
    middle = torch.minimum(torch.maximum(middle, low.unsqueeze(-1)), high.unsqueeze(-1))
    if middle.shape[-1] == 0:
        return 0.0
    soft, _ = attention.soft_assignment(middle, ordered, Clustering(temperature, 1))
    mean = (soft @ ordered.unsqueeze(-1)).squeeze(-1)
    square = (soft @ (ordered * ordered).unsqueeze(-1)).squeeze(-1)
    return float((square - mean * mean).clamp_min(0).amax().sqrt()) * 2 / temperature


def _edges(group: Tensor, low: float, high: float, palette: Tensor, clustering: Clustering) -> FloatArray:
    """Edges of the panels of one group, each exactly a float32, from `low` to above `high`."""
    if not high > low:
        return np.array([low, float(np.nextafter(np.float32(high), np.float32(np.inf)))])
    middles, gaps = [], []
    for centroids in _forecast(group, low, high, palette, clustering):
        ordered = np.sort(centroids)
        middles.append((ordered[1:] + ordered[:-1]) / 2)
        gaps.append(np.diff(ordered))
    middle, gap = np.concatenate(middles), np.concatenate(gaps)
    # Places that are dense around each switch, in multiples of its width, and a few everywhere.
    steps = np.sinh(np.linspace(0, 12, 40))
    scale = clustering.temperature / np.maximum(gap, math.sqrt(2 * clustering.temperature))
    around = middle[:, None] + scale[:, None] * np.concatenate((-steps[::-1], steps[1:]))
    places = np.concatenate((around.reshape(-1), np.linspace(low, high, 513)))
    places = np.unique(places[(places >= low) & (places <= high)])
    rate = np.zeros_like(places)
    for middle, gap in zip(middles, gaps, strict=True):
        rate = np.maximum(rate, _rate(places, middle, gap, clustering.temperature))
    phase = np.concatenate(([0.0], np.cumsum(np.diff(places) * (rate[1:] + rate[:-1]) / 2))) * _SAFETY
    panels = max(1, math.ceil(phase[-1]))
    edges = np.interp(np.linspace(0, phase[-1], panels + 1), phase, places)
    edges = np.unique(edges.astype(np.float32))
    edges[0] = low
    # The greatest weight lies inside the last panel.
    edges[-1] = np.nextafter(np.float32(high), np.float32(np.inf))
    return edges.astype(np.float64)


def _rate(places: FloatArray, middle: FloatArray, gap: FloatArray, temperature: float) -> FloatArray:
    """Rate of change of attention that the switches on either side allow polynomials to be told at `places`.

    A switch of width w has its singularities at a distance of pi w / 2 off the real axis, and panels may widen with
    the distance from them.
    """
    effective = np.maximum(gap, math.sqrt(2 * temperature))
    right = np.clip(np.searchsorted(middle, places), 0, middle.size - 1)
    rate = np.zeros_like(places)
    for index in (right, np.maximum(right - 1, 0)):
        distance = 2 * effective[index] * (places - middle[index]) / temperature
        rate = np.maximum(rate, effective[index] / temperature / np.sqrt(1 + (distance / math.pi) ** 2))
    return rate


def _forecast(
    group: Tensor, low: float, high: float, palette: Tensor, clustering: Clustering
) -> list[FloatArray]:
    """The palette before each iteration, from a plain histogram."""
    scale = (_FORECAST_BINS - 1) / (high - low)
    bins = ((group - low) * scale).clamp_(0, _FORECAST_BINS - 1).to(torch.int32)
    counts = torch.bincount(bins, minlength=_FORECAST_BINS)
    sums = torch.bincount(bins, weights=group, minlength=_FORECAST_BINS)
    occupied = counts > 0
    masses = counts[occupied].double().unsqueeze(0)
    points = sums[occupied].double().unsqueeze(0) / masses
    _, iterations = attention.cluster(points, masses, palette.unsqueeze(0), clustering)
    return [iteration.before[0].numpy() for iteration in iterations]


def _pad(edges: FloatArray, count: int) -> FloatArray:
    """More panels above the last edge, which no weight falls into."""
    step = edges[-1] - edges[-2]
    return np.concatenate((edges, edges[-1] + step * np.arange(1, count - edges.size + 1)))
