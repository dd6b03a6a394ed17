"""A weight as vectors of neighbouring channels, in the order in which coremltools takes them."""

from __future__ import annotations

import torch
from torch import Tensor


def to_vectors(weight: Tensor, groups: int, dimensions: int) -> Tensor:
    """Cut a weight, channels first, into vectors.

    Args:
        weight: Shape (C, ...).
        groups: Number of equal groups of channels.
        dimensions: Channels of a vector; a divisor of the channels of a group.

    Returns:
        Shape (groups, N, dimensions).
    """
    if dimensions == 1:
        return weight.reshape(groups, -1, 1)
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return grouped.transpose(1, -1).reshape(groups, -1, dimensions)


def from_vectors(vectors: Tensor, shape: torch.Size) -> Tensor:
    """Put vectors together again; the inverse of `to_vectors`.

    Args:
        vectors: Shape (groups, N, dimensions).
        shape: The weight's shape.
    """
    if vectors.shape[-1] == 1:
        return vectors.reshape(shape)
    groups = vectors.shape[0]
    if len(shape) == 1:
        return vectors.reshape(shape)
    turned = vectors.reshape(groups, shape[-1], *shape[1:-1], shape[0] // groups)
    return turned.transpose(1, -1).reshape(shape)
