"""How the vectors of a weight lie in it, and what is kept of their clustering until the backward pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class VectorLayout(NamedTuple):
    """A weight, channels first, as vectors of channels that follow each other.

    Contiguous, it is (groups, chunks, dimensions, row): the elements of a vector lie `row` apart.
    """

    groups: int
    chunks: int
    dimensions: int
    row: int

    @classmethod
    def of(cls, weight: Tensor, groups: int, dimensions: int) -> VectorLayout:
        """The layout of a weight (C, ...) of `groups` equal groups of channels."""
        channels = weight.shape[0] if weight.dim() else 1
        chunks = channels // groups // dimensions
        return cls(groups, chunks, dimensions, weight.numel() // channels)


def laid_out(weight: Tensor, centroids: Tensor, groups: int) -> tuple[Tensor, VectorLayout, Tensor]:
    """A weight as it is clustered in equal groups of channels, its layout, and its palettes (G, K, D) of (K, D) too."""
    layout = VectorLayout.of(weight, groups, centroids.shape[-1])
    return precise(weight), layout, centroids.detach().reshape(groups, *centroids.shape[-2:])


class VectorIterations(NamedTuple):
    """The centroid updates of a clustering.

    Attributes:
        trace: The palettes before the first update and after each, (iterations + 1, G, K, D).
        attended: The attention that each update paid to each centroid, (iterations, G, K); 0 where none was.
        done: How many updates were made before an early stop, (G,).
        order: Where vectors lie, near ones together, (G, N), for palettes of many in C.
        near: Bits of the centroids that matter to each block of those in the last update.
    """

    trace: Tensor
    attended: Tensor
    done: Tensor
    order: Tensor | None = None
    near: Tensor | None = None


def precise(tensor: Tensor) -> Tensor:
    """A tensor as vectors are clustered: contiguous, and in single precision unless in double."""
    tensor = tensor.detach()
    return (tensor if tensor.dtype == torch.float64 else tensor.float()).contiguous()
