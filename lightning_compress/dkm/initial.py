"""The first palette of a weight: k-means, of scalars on their counted values."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_compress.dkm import lloyd
from lightning_compress.dkm.natural_floats import NATURAL_SIZES, fit_natural_floats, natural_floats
from lightning_compress.kmeans import ValueCounts, kmeans_1d

_SORTED_SIZE = 1 << 16
"""Up to this many weights are sorted and counted exactly."""

_REFINED = 64
"""Up to this many clusters their search is refined; with more that would take most of the first training step."""

_BINS = 1 << 16
"""Bins of equal width that more weights are counted in, each by the mean of its weights."""

_LEAST_WEIGHT = 1e-6
"""What the least important element counts, as a share of what elements do on average."""

_NARROWEST = 1e-30
"""Ranges narrower than this cannot be divided in single precision."""


def first_palette(
    points: Tensor,
    n_clusters: int,
    *,
    algorithm: str = "auto",
    fix_zero: bool = False,
    keep_zeros: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    """Cluster each group by k-means; the same on every machine and every rank.

    Args:
        points: Finite, shape (G, N, D).
        n_clusters: Number K of centroids of each group.
        algorithm: "nf" and "nf_fit" for natural floats, where there are as many; anything else is k-means.
        fix_zero: Make the centroid nearest to zero zero, and the first.
        keep_zeros: Make zero the first centroid and cluster only the other points around the remaining ones.
        weights: How much the square of each difference counts, not negative, (G, N, D); all the same by default.

    Returns:
        Centroids, shape (G, K, D), float32 (float64 for float64 points) on the CPU; scalars ascending but for the zero.
    """
    precision = torch.float64 if points.dtype == torch.float64 else torch.float32
    natural = algorithm.startswith("nf") and n_clusters in NATURAL_SIZES and points.shape[-1] == 1
    palettes = []
    counting = [None] * len(points) if weights is None else weights.detach().to(device="cpu", dtype=precision)
    for group, counts in zip(points.detach().to(device="cpu", dtype=precision), counting, strict=True):
        if natural:
            palettes.append(_natural(group, n_clusters, algorithm))
            continue
        present = (group != 0).any(dim=-1) if keep_zeros else slice(None)
        positive = None if counts is None else _positive(counts[present])
        palette = _kmeans(group[present], n_clusters - int(keep_zeros), positive)
        if keep_zeros:
            palette = torch.cat((palette.new_zeros((1, palette.shape[-1])), palette))
        elif fix_zero:
            nearest = int(palette.square().sum(dim=-1).argmin())
            palette[nearest] = palette[0].clone()
            palette[0] = 0.0
        palettes.append(palette)
    return torch.stack(palettes).to(precision)


def _positive(weights: Tensor) -> Tensor | None:
    """Weights of mean one of which none is zero: no element may have its place nowhere. None where all are."""
    mean = weights.mean(dtype=torch.float64)
    if not bool(mean > 0):
        return None
    return (weights / mean).clamp_min(_LEAST_WEIGHT)


def _kmeans(points: Tensor, n_clusters: int, weights: Tensor | None = None) -> Tensor:
    if points.shape[-1] > 1:
        # What is weighted is not improved by training.
        return lloyd.kmeans(points, n_clusters, weights, quick=weights is None)
    if not n_clusters:
        return points.new_zeros((0, 1))
    counted = count_values(points.flatten(), None if weights is None else weights.flatten())
    palette = kmeans_1d(counted.values, counted.counts, n_clusters, refine=n_clusters <= _REFINED)
    return torch.from_numpy(palette).unsqueeze(-1)


def _natural(points: Tensor, n_clusters: int, algorithm: str) -> Tensor:
    if algorithm != "nf_fit":
        return natural_floats(n_clusters).unsqueeze(-1)
    counted = count_values(points.flatten())
    values, counts = torch.from_numpy(counted.values), torch.from_numpy(counted.counts)
    return fit_natural_floats(values, counts, n_clusters).unsqueeze(-1)


def count_values(values: Tensor, weights: Tensor | None = None) -> ValueCounts:
    """Values of a flat tensor and their counts: exact for few, means of narrow bins for many.

    Args:
        values: Finite, on the CPU.
        weights: What each value counts, positive; one by default.
    """
    if values.numel() <= _SORTED_SIZE:
        return _count_exactly(values, weights)
    low, high = (float(bound) for bound in torch.aminmax(values))
    # Halves, because the range of weights near the largest float is itself no float.
    width = high / 2 - low / 2
    if width < _NARROWEST:
        return _count_exactly(values, weights)
    bins = values.div(2).sub_(low / 2).mul_((_BINS - 1) / width).to(torch.int32)
    counts = torch.bincount(bins, None if weights is None else weights.double(), minlength=_BINS)
    products = values.double() if weights is None else values.double() * weights
    sums = torch.bincount(bins, weights=products, minlength=_BINS)
    occupied = counts > 0
    means = sums[occupied] / counts[occupied]
    return ValueCounts(means.numpy(), counts[occupied].double().numpy())


def _count_exactly(values: Tensor, weights: Tensor | None) -> ValueCounts:
    if weights is None:
        distinct, counts = torch.unique(values, return_counts=True)
    else:
        distinct, inverse = torch.unique(values, return_inverse=True)
        counts = torch.bincount(inverse, weights.double(), minlength=distinct.numel())
    return ValueCounts(distinct.double().numpy(), counts.double().numpy())
