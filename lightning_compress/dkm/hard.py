"""Hard assignment of weights to a palette, as evaluation and the exported package use it."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_compress.dkm.lloyd import nearest


def assign_hard(
    weight: Tensor, palette: Tensor, *, zero_preference: float = 0.0, keep_zeros: bool = False
) -> Tensor:
    """Replace every weight by its nearest centroid.

    Args:
        weight: Shape (G, N).
        palette: A palette for each group, shape (G, K), in any order.
        zero_preference: How much nearer, in squared distance, the first centroid seems than it is.
        keep_zeros: The first centroid, zero, takes the zeros and nothing else.

    Returns:
        Centroids, shape (G, N), in the type of `palette`.
    """
    weight = weight.to(palette.dtype)
    if keep_zeros:
        if palette.shape[-1] == 1:
            return torch.zeros_like(weight)
        return torch.where(weight == 0, torch.zeros_like(weight), _nearest(weight, palette[:, 1:]))
    if not zero_preference or palette.shape[-1] == 1:
        return _nearest(weight, palette)
    first, others = palette[:, :1], palette[:, 1:]
    # The first centroid's cell is cut by one boundary against each of the others: it lies between the nearest ones.
    boundary = (first + others) / 2 + zero_preference / (2 * (others - first))
    infinity = torch.full_like(others, torch.inf)
    lower = torch.where(others < first, boundary, -infinity).amax(dim=-1, keepdim=True)
    upper = torch.where(others > first, boundary, infinity).amin(dim=-1, keepdim=True)
    return torch.where((weight > lower) & (weight < upper), first, _nearest(weight, others))


def _nearest(weight: Tensor, palette: Tensor) -> Tensor:
    ordered = palette.sort(dim=-1).values
    middle = ordered[:, :-1] + (ordered[:, 1:] - ordered[:, :-1]) / 2
    if weight.shape[0] == 1:
        index = torch.bucketize(weight[0], middle[0], out_int32=True)
        return torch.index_select(ordered[0], 0, index).unsqueeze(0)
    index = torch.searchsorted(middle.contiguous(), weight.contiguous())
    return torch.gather(ordered, 1, index)


def assign_vectors(
    points: Tensor, palette: Tensor, *, zero_preference: float = 0.0, keep_zeros: bool = False
) -> Tensor:
    """Replace every vector by its nearest centroid; as `assign_hard`, for vectors.

    Args:
        points: Shape (G, N, D).
        palette: Shape (G, K, D).
        zero_preference: How much nearer, in squared distance, the first centroid seems than it is.
        keep_zeros: The first centroid, zero, takes the vectors that are zero throughout and nothing else.

    Returns:
        Centroids, shape (G, N, D), in the type of `palette`.
    """
    if palette.shape[-1] == 1:
        scalars = assign_hard(
            points.squeeze(-1), palette.squeeze(-1), zero_preference=zero_preference, keep_zeros=keep_zeros
        )
        return scalars.unsqueeze(-1)
    points = points.to(palette.dtype)
    assigned = torch.zeros_like(points)
    first = int(keep_zeros)
    if palette.shape[1] == first:
        return assigned
    for group, centroids in enumerate(palette[:, first:]):
        index, _ = nearest(points[group], centroids, 0.0 if keep_zeros else zero_preference)
        assigned[group] = centroids[index]
    if keep_zeros:
        assigned *= (points != 0).any(dim=-1, keepdim=True)
    return assigned
