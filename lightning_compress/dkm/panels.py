"""How finely the range of a weight must be resolved, and where.

Attention switches from one centroid to the next over a width of about temperature / gap, or of sqrt(temperature) among
centroids nearer to one another than that. A panel on which its functions are polynomials of low degree may be that
wide at a switch, and wider in proportion to the distance from it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.grid import LEAST_BINS, POINTS, USUAL_BINS, Grid, Resolution

_UNIFORM_SIZE = 1 << 19
"""Points times centroids up to which equal panels are used: they need no search for a weight's panel."""

_EQUAL_WIDTH = 1.75
"""Width of equal panels where attention changes most, in units of 1 / rate of change: polynomials are good to 1e-6."""

_MOST_UNIFORM_PANELS = 512
"""More equal panels than this need more bins than single precision tells apart."""

_WEIGHTS_OF_BIN = 4
"""Weights whose panels, laid out around switches, are found at the price of a bin of equal panels."""

_MOST_PANELS = 1 << 14
"""More panels than this, and weights are evaluated one by one."""

_STEEP_BINS = 64
"""Bins on each panel that was laid out around a switch."""

_LEAST_PLACES = 64
_MOST_PLACES = 1 << 13
"""Equally spaced places at which the width that panels may have is computed, beside those around steep switches."""

_STEPS = 48
"""Places on either side of a steep switch at which it is computed."""

_DRIFT = 3.0
"""How far a switch may lie from where it was forecast, in widths."""

_SAFETY = 1.25
"""How much narrower panels are than the estimate asks."""

FloatArray = npt.NDArray[np.float64]


class Layout(NamedTuple):
    """A grid and the palettes, (G, K), before each iteration that it was laid out for."""

    grid: Grid
    palettes: list[Tensor]


def lay_out(
    weights: Tensor, low: Tensor, high: Tensor, palettes: list[Tensor], clustering: Clustering
) -> Layout | None:
    """Lay out panels for weights on the CPU.

    Args:
        weights: Shape (G, N), float32.
        low: Least weight of each group, (G,), float64.
        high: Greatest weight of each group.
        palettes: Centroids before the first iteration and, where known, before later ones, (G, K), float64.
        clustering: What will be done with them.

    Returns:
        None where weights are better evaluated one by one: few weights, or a range that single precision cannot place
        them on.
    """
    width = float((high - low).max())
    if not 1e-30 < width < 1e30:
        return None
    temperature = clustering.temperature
    rate = _greatest_rate(low, high, palettes, temperature)
    clusters, size = palettes[0].shape[-1], weights.shape[-1]
    worth = max(size / _WEIGHTS_OF_BIN, USUAL_BINS) / LEAST_BINS
    if width * rate <= min(_MOST_UNIFORM_PANELS, _UNIFORM_SIZE / (POINTS * clusters), worth):
        panels = max(1, math.ceil(width * rate))
        if _exact_is_cheaper(weights, panels):
            return None
        return Layout(Grid.uniform(low, high, Resolution.for_panels(panels, size)), palettes)
    edges = [
        _edges(float(low[group]), float(high[group]), [each[group] for each in palettes], temperature)
        for group in range(weights.shape[0])
    ]
    panels = max(len(group) for group in edges) - 1
    if panels > _MOST_PANELS or _exact_is_cheaper(weights, panels):
        return None
    padded = torch.from_numpy(np.stack([_pad(group, panels + 1) for group in edges])).to(low)
    return Layout(Grid(padded, Resolution(panels, _STEEP_BINS)), palettes)


def resolves(layout: Layout, low: Tensor, high: Tensor, palettes: list[Tensor], temperature: float) -> bool:
    """Whether a layout also resolves the palettes that the iterations on it really went through."""
    if layout.grid.uniform_panels:
        width = float((high - low).max())
        if len(palettes) == 1:
            return True
        rate = _greatest_rate(low, high, palettes[1:], temperature)
        return width * rate <= _SAFETY * layout.grid.resolution.panels
    drift = 0.0
    for position in range(1, len(palettes)):
        planned = layout.palettes[min(position, len(layout.palettes) - 1)].sort(dim=-1).values
        real = palettes[position].sort(dim=-1).values
        moved = (planned[:, 1:] + planned[:, :-1] - real[:, 1:] - real[:, :-1]).abs()
        drift = max(drift, float((moved * real.diff(dim=-1)).max()) / temperature)
    return drift <= _DRIFT


def _exact_is_cheaper(weights: Tensor, panels: int) -> bool:
    return weights.shape[-1] <= panels * POINTS


def _greatest_rate(low: Tensor, high: Tensor, palettes: list[Tensor], temperature: float) -> float:
    """Greatest rate at which attention to any of the palettes changes within the range, in units of 1 / weight.

    That is 2 / temperature times the spread of the centroids that a weight attends to. Halfway between two centroids a
    gap apart the spread is gap / 2, among centroids nearer to one another sqrt(temperature / 2).
    """
    ordered = np.sort([palette.numpy() for palette in palettes], axis=-1)
    if ordered.shape[-1] == 1:
        return 0.0
    left, right = ordered[..., :-1], ordered[..., 1:]
    # A switch outside the range is not felt in it, but for its end.
    reached = (right > low.numpy()[:, None]) & (left < high.numpy()[:, None])
    gap = float(np.max(right - left, where=reached, initial=0.0))
    return 2 / temperature * math.sqrt(gap * gap / 4 + temperature / 2) / _EQUAL_WIDTH


def _edges(low: float, high: float, palettes: list[Tensor], temperature: float) -> FloatArray:
    """Edges of the panels of one group, each exactly a float32, from `low` to above `high`."""
    if not high > low:
        return np.array([low, float(np.nextafter(np.float32(high), np.float32(np.inf)))])
    middles, gaps = [], []
    for centroids in palettes:
        ordered = np.sort(centroids.numpy())
        middles.append((ordered[1:] + ordered[:-1]) / 2)
        gaps.append(np.diff(ordered))
    middle, gap = np.concatenate(middles), np.concatenate(gaps)
    # Places everywhere that tell soft switches, and ever less densely around each steep one.
    soft = math.sqrt(temperature / 2)
    steep = gap > 2 * soft
    most = 0 if steep.all() else min(4 * (high - low) / soft, _MOST_PLACES)
    everywhere = np.linspace(low, high, int(max(most, _LEAST_PLACES)))
    scale = temperature / gap[steep]
    reach = np.arcsinh((high - low) / scale)
    steps = np.sinh(reach[:, None] * np.linspace(0, 1, _STEPS)) * scale[:, None]
    centre = middle[steep, None]
    places = np.concatenate((centre - steps, centre + steps, everywhere), axis=None)
    places = np.unique(places[(places >= low) & (places <= high)])
    rate = np.zeros_like(places)
    for middle, gap in zip(middles, gaps, strict=True):
        rate = np.maximum(rate, _rate(places, middle, gap, temperature))
    phase = np.concatenate(([0.0], np.cumsum(np.diff(places) * (rate[1:] + rate[:-1]) / 2))) * _SAFETY
    panels = min(max(1, math.ceil(phase[-1])), _MOST_PANELS + 1)
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


def _pad(edges: FloatArray, count: int) -> FloatArray:
    """More panels above the last edge, which no weight falls into."""
    step = edges[-1] - edges[-2]
    return np.concatenate((edges, edges[-1] + step * np.arange(1, count - edges.size + 1)))
