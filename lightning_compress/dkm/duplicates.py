"""Repeated centroids, which waste entries of a palette: found, and spread."""

from __future__ import annotations

import torch
from torch import Tensor


def spread_duplicates(palette: Tensor, *, first_free: int, tolerance: float) -> Tensor:
    """Sort a palette, and move repeated centroids halfway to the next distinct one, once they are too many.

    Args:
        palette: Shape (G, K, D).
        first_free: Number of centroids in front that stay what and where they are.
        tolerance: Share of the centroids of a group that may be repeated (coremltools' `palett_cluster_tol`).

    Returns:
        The palette, shape (G, K, D); the free ones of scalars ascend.
    """
    if palette.shape[-1] > 1:
        return torch.stack([_spread_vectors(group, first_free, tolerance) for group in palette])
    free = palette[:, first_free:, 0].sort(dim=-1).values
    ordered = torch.cat((palette[:, :first_free, 0], free), dim=-1) if first_free else free
    if ordered.device.type == "cpu" and bool(free.diff(dim=-1).all()):
        return ordered.unsqueeze(-1)
    repeated = torch.zeros_like(ordered, dtype=torch.bool)
    repeated[:, first_free + 1 :] = ordered[:, first_free + 1 :] == ordered[:, first_free:-1]
    distinct = (~repeated).sum(dim=-1, keepdim=True)
    # The last of a run moves, towards the centroid after it; at the upper end it stays.
    following = torch.cat((ordered[:, 1:], ordered[:, -1:]), dim=-1)
    due = repeated & (distinct < ordered.shape[-1] * (1 - tolerance))
    return torch.where(due, (ordered + following) / 2, ordered).unsqueeze(-1)


def lost_entries(palette: Tensor, tolerance: Tensor) -> Tensor:
    """The greatest share of the entries of a palette that lie no farther than `tolerance` from others before them.

    Args:
        palette: Shape (G, K, D).
        tolerance: A distance, ().
    """
    if palette.shape[-1] == 1:
        lost = palette[..., 0].sort(dim=-1).values.diff(dim=-1) < tolerance
        return lost.sum(dim=-1).amax() / palette.shape[1]
    near = torch.cdist(palette, palette) < tolerance
    return near.tril(diagonal=-1).any(dim=-1).sum(dim=-1).amax() / palette.shape[1]


def _spread_vectors(palette: Tensor, first_free: int, tolerance: float) -> Tensor:
    distinct, inverse = torch.unique(palette, dim=0, return_inverse=True)
    if len(distinct) >= len(palette) * (1 - tolerance):
        return palette
    spread = palette.clone()
    seen: set[int] = set()
    for position, index in enumerate(inverse.tolist()):
        if index in seen and position >= first_free:
            spread[position] = (distinct[index] + distinct[(index + 1) % len(distinct)]) / 2
        seen.add(index)
    return spread
