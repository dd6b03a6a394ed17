"""The first palette of a weight: one-dimensional k-means on its counted values."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lightning_compress.kmeans import ValueCounts, kmeans_1d

_SORTED_SIZE = 1 << 16
"""Up to this many weights are sorted and counted exactly."""

_REFINED = 64
"""Up to this many clusters their search is refined; with more that would take most of the first training step."""

_BINS = 1 << 16
"""Bins of equal width that more weights are counted in, each by the mean of its weights."""

_NARROWEST = 1e-30
"""Ranges narrower than this cannot be divided in single precision."""


def first_palette(weight: Tensor, n_clusters: int, *, keep_zeros: bool = False) -> Tensor:
    """Cluster each group of weights by k-means; the same on every machine and every rank.

    Args:
        weight: Finite, shape (G, N).
        n_clusters: Number K of centroids of each group.
        keep_zeros: Make zero the first centroid and cluster only the other weights around the remaining ones.

    Returns:
        Centroids, ascending but for the zero, shape (G, K), float32 (float64 for float64 weights) on the CPU.
    """
    precision = torch.float64 if weight.dtype == torch.float64 else torch.float32
    palettes = []
    for group in weight.detach().to(device="cpu", dtype=precision):
        values = group[group != 0] if keep_zeros else group
        counted = count_values(values)
        if not keep_zeros:
            palette = kmeans_1d(counted.values, counted.counts, n_clusters, refine=n_clusters <= _REFINED)
        elif n_clusters == 1:
            palette = np.zeros(1)
        else:
            others = kmeans_1d(counted.values, counted.counts, n_clusters - 1, refine=n_clusters <= _REFINED)
            palette = np.concatenate((np.zeros(1), others))
        palettes.append(torch.from_numpy(palette))
    return torch.stack(palettes).to(precision)


def count_values(values: Tensor) -> ValueCounts:
    """Values of a flat tensor and their counts: exact for few, means of narrow bins for many."""
    if values.numel() <= _SORTED_SIZE:
        return _count_exactly(values)
    low, high = (float(bound) for bound in torch.aminmax(values))
    # Halves, because the range of weights near the largest float is itself no float.
    width = high / 2 - low / 2
    if width < _NARROWEST:
        return _count_exactly(values)
    bins = values.div(2).sub_(low / 2).mul_((_BINS - 1) / width).to(torch.int32)
    counts = torch.bincount(bins, minlength=_BINS)
    sums = torch.bincount(bins, weights=values.double(), minlength=_BINS)
    occupied = counts > 0
    means = sums[occupied] / counts[occupied]
    return ValueCounts(means.numpy(), counts[occupied].double().numpy())


def _count_exactly(values: Tensor) -> ValueCounts:
    distinct, counts = torch.unique(values, return_counts=True)
    return ValueCounts(distinct.double().numpy(), counts.double().numpy())
