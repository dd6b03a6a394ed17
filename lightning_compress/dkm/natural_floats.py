"""Palettes of natural floats: quantiles of a normal distribution, as QLoRA has them (arXiv 2305.14314)."""

from __future__ import annotations

import torch
from scipy.stats import norm
from torch import Tensor

from lightning_compress.dkm.hard import assign_hard

NATURAL_SIZES = (8, 16)
"""Numbers of centroids that there are natural floats of."""

_OFFSET = 0.9677083
"""Probability of the outermost quantile."""

_POWERS = [1.0, *(1 + sign * step / 100 for step in range(1, 99) for sign in (1, -1))]


def natural_floats(n_clusters: int) -> Tensor:
    """The natural floats from -1 to 1, zero first, shape (n_clusters,), float64."""
    half = n_clusters // 2
    upper = norm.ppf(torch.linspace(_OFFSET, 0.5, half + 1)[:-1].numpy())
    lower = -norm.ppf(torch.linspace(_OFFSET, 0.5, half)[:-1].numpy())
    values = torch.tensor([0.0, *lower, *reversed(upper)], dtype=torch.float64)
    return values / values.max()


def fit_natural_floats(values: Tensor, counts: Tensor, n_clusters: int) -> Tensor:
    """The power of the natural floats that is nearest to values with counts, shapes (N,): shape (n_clusters,)."""
    floats = natural_floats(n_clusters).to(values.dtype)
    best, least = floats, torch.inf
    for power in _POWERS:
        bent = floats.sign() * floats.abs() ** power
        error = (assign_hard(values.unsqueeze(0), bent.unsqueeze(0))[0] - values).square()
        total = float((error * counts).sum())
        if total < least:
            best, least = bent, total
    return best
