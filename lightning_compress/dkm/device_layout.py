"""Panels for weights on a device, laid out there: in operations of fixed size, none of which the host waits for.

As many panels are made whatever the weights, and shared out by how fast attention changes. Where its switches will lie
in each iteration is forecast from bins of the weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.grid import PART, POINTS, Grid, Resolution

_LEAST_PANELS, _MOST_PANELS = 384, 2048
"""Panels for a few centroids, and for the most."""

_PANELS_OF_SWITCH = 64
"""Panels for each centroid in between: those around a steep switch in each of three iterations, or of all in one."""

_BINS = 64
"""Bins on a panel. There are more panels than most weights ask for, each narrower than it might be."""

_FEW = 1 << 18
"""Weights times centroids up to which a device is not filled by attention of all weights."""

_WORTH = 3
"""Weights for each point, from which on a grid is cheaper to keep for the derivatives than attention is to compute."""

_LEAST_FORECAST, _FORECAST = 1 << 13, 1 << 18
"""Bins of the forecast at least, and bins times centroids."""

_MOST_FORECAST = 1 << 24
"""Bins times centroids of all groups, where they are many."""

_SHARES = 32
"""Parts of the bins that are summed up side by side."""


def lay_out(
    weights: Tensor,
    low: Tensor,
    high: Tensor,
    palette: Tensor,
    present: Tensor | None,
    clustering: Clustering,
) -> Grid | None:
    """Lay out panels that resolve attention to the palette before each iteration.

    Args:
        weights: Shape (G, N), float32.
        low: Least weight of each group, (G,).
        high: Greatest weight of each group.
        palette: Centroids before the first iteration, (G, K), of the type to compute in.
        present: Which weights take part, (G, N); by default all.
        clustering: What will be done with them.

    Returns:
        None where so few weights are as well evaluated one by one. Shapes alone decide that.
    """
    clusters = palette.shape[-1]
    # Sums over all weights lose more to single precision than a grid does.
    few = palette.dtype == torch.float64 and weights.numel() * clusters <= _FEW
    if few or weights.shape[-1] <= _WORTH * _panels(clusters) * POINTS:
        return None
    rows = torch.arange(len(weights), dtype=torch.int32, device=weights.device)
    rows = rows.repeat_interleave(weights.shape[-1])
    flat = None if present is None else present.reshape(-1)
    return lay_out_together(weights.reshape(-1), rows, low, high, palette, flat, clustering)


def lay_out_together(
    weights: Tensor,
    rows: Tensor,
    low: Tensor,
    high: Tensor,
    palettes: Tensor,
    present: Tensor | None,
    clustering: Clustering,
    *,
    tensors: int = 1,
) -> Grid:
    """As `lay_out`, for weights however few, of groups of any sizes.

    Args:
        weights: Those of all groups, (N,), float32.
        rows: The group of each, (N,), int32.
        low: Least weight of each group, (G,).
        high: Greatest weight of each group.
        palettes: Centroids before the first iteration, (G, K), of the type to compute in.
        present: Which weights take part, (N,); by default all.
        clustering: What will be done with them.
        tensors: The number of tensors that they are the weights of, each of which is told as finely as alone.
    """
    planned = torch.stack(_forecast(weights, rows, low, high, palettes, present, clustering, tensors))
    share = max(PART, _panels(palettes.shape[-1]) // len(planned) // PART * PART)
    edges = _edges(low, high, planned, share, clustering)
    return Grid(edges, Resolution(edges.shape[-1] - 1, _BINS))


def _panels(clusters: int) -> int:
    return max(_LEAST_PANELS, min(_MOST_PANELS, _PANELS_OF_SWITCH * clusters))


def _forecast(
    weights: Tensor,
    rows: Tensor,
    low: Tensor,
    high: Tensor,
    palette: Tensor,
    present: Tensor | None,
    clustering: Clustering,
    tensors: int,
) -> list[Tensor]:
    """The palettes (G, K) before each iteration, as weights gathered in bins, equal and many, would make them."""
    palettes = [palette]
    if clustering.iterations == 1:
        return palettes
    groups, clusters = palette.shape
    least = min(_LEAST_FORECAST, _MOST_FORECAST // (groups * clusters))
    usual = min(tensors * _FORECAST, _MOST_FORECAST) // (groups * clusters)
    size = max(1, least // _SHARES, usual // _SHARES) * _SHARES
    scale = (size / (high - low).clamp_min(_NARROW)).to(weights.dtype)
    bins = (weights - low.to(weights.dtype).index_select(0, rows)).mul_(scale.index_select(0, rows))
    bins = bins.to(torch.int32).clamp_(max=size - 1).add_(rows, alpha=size)
    ones = torch.ones_like(weights) if present is None else present
    empty = palette.new_zeros(groups * size)
    counts = empty.index_add(0, bins, ones.to(empty.dtype)).view(groups, size)
    sums = empty.index_add_(0, bins, weights.to(empty.dtype)).view(groups, size)
    # Around the middle of the range, where little is lost to rounding.
    middle = ((low + high) / 2).unsqueeze(-1)
    points = sums / counts.clamp_min(1) - middle
    moments = torch.stack((counts, counts * points), dim=-1).view(groups * _SHARES, -1, 2)
    logits_by_centroid = (points * (2 / clustering.temperature)).unsqueeze(-1)
    centroids = palette - middle
    for _ in range(clustering.iterations - 1):
        bias = centroids.square() * (-1 / clustering.temperature)
        if clustering.zero_preference:
            bias[..., 0] += clustering.zero_preference / clustering.temperature
        logits = torch.addcmul(bias.unsqueeze(-2), logits_by_centroid, centroids.unsqueeze(-2))
        attention = torch.softmax(logits, dim=-1)
        if clustering.attention_floor:
            attention.clamp_min_(clustering.attention_floor)
        shares = attention.view(groups * _SHARES, -1, clusters).transpose(-1, -2) @ moments
        attended, reached = shares.view(groups, _SHARES, clusters, 2).sum(dim=1).unbind(dim=-1)
        centroids = torch.where(attended > _UNATTENDED, reached / attended, centroids)
        palettes.append(centroids + middle)
        if clustering.fix_zero:
            palettes[-1][..., 0] = 0.0
            centroids = palettes[-1] - middle
    return palettes


def _edges(low: Tensor, high: Tensor, palettes: Tensor, panels: int, clustering: Clustering) -> Tensor:
    """Edges of `panels` panels for each of the palettes (T, G, K), all in one ascending row a group.

    Attention switches around the middle m between two neighbours a gap apart at a rate that falls with the distance
    from it (`panels._rate`): gap / temperature / sqrt(1 + (slope (x - m))^2), with slope = 2 gap / (pi temperature).
    Its integral is pi / 2 asinh(slope (x - m)), so that equal parts of it, the panels, are had without a search for
    them. A switch has the part of the range that is nearer to it than to other switches.
    """
    low, high = low.unsqueeze(-1), high.unsqueeze(-1)
    ordered = palettes.sort(dim=-1).values
    if ordered.shape[-1] == 1:
        # Attention to one centroid is the same everywhere.
        ordered = torch.cat((ordered, ordered), dim=-1)
    gap = ordered.diff(dim=-1).clamp_min(math.sqrt(2 * clustering.temperature))
    slope = gap * (2 / (math.pi * clustering.temperature))
    switch = (ordered[..., 1:] + ordered[..., :-1]) / 2
    between = torch.minimum(torch.maximum((switch[..., 1:] + switch[..., :-1]) / 2, low), high)
    ends = torch.broadcast_to(torch.stack((low, high)).unsqueeze(1), (2, *switch.shape[:2], 1))
    bounds = torch.stack((torch.cat((ends[0], between), dim=-1), torch.cat((between, ends[1]), dim=-1)))
    begin, end = ((bounds - switch) * slope).asinh_()
    # A product, since a device has no cumulative sum that is the same every time.
    passed = (end - begin) @ slope.new_ones((slope.shape[-1],) * 2).triu_()
    # Where palettes agree their panels fall between one another.
    count = panels * len(palettes)
    shares = torch.arange(count, dtype=low.dtype, device=low.device).view(panels, -1, 1).permute(1, 2, 0)
    wanted = passed[..., -1:] * (shares / count)
    index = torch.searchsorted(passed, wanted.contiguous(), right=True).clamp_(max=passed.shape[-1] - 1)
    told = torch.stack((end - passed, switch, slope), dim=-2)
    offset, centre, steep = (told.gather(-1, index.unsqueeze(-2).expand(-1, -1, 3, -1))).unbind(dim=-2)
    places = centre + (wanted + offset).sinh_() / steep
    edges = torch.minimum(torch.maximum(places, low), high).transpose(0, 1).flatten(1).sort(dim=-1).values
    # The greatest weight lies inside the last panel, and edges are such as weights can be told from.
    above = high.float()
    above = torch.maximum(above + above.abs() * 2.0**-22, above + _NARROW)
    edges = torch.cat((low.float(), edges[:, 1:].float(), above), dim=-1)
    return edges.to(low.dtype)


_NARROW = 1e-30
"""A range narrower than this is one bin of the forecast, and the last panel is no narrower."""

_UNATTENDED = 1e-20
"""Mass below which a centroid is forecast to stay where it is."""
