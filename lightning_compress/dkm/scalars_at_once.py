"""Differentiable k-means of scalars in one call into C, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_compress.dkm import native
from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.native import scalars as native_scalars
from lightning_compress.dkm.native.scalars import ClusteredScalars
from lightning_compress.dkm.ranges import finite_range
from lightning_compress.dkm.vector_iterations import precise


def palettize_at_once(
    weight: Tensor, centroids: Tensor, groups: int, clustering: Clustering, keep_zeros: bool
) -> tuple[Tensor, Tensor] | None:
    """Cluster a weight in `groups` equal parts around centroids (G, K, 1), or (K, 1).

    Returns:
        The clustered weight and the new centroids, differentiable by both, or None where this is no case for C.

    Raises:
        WeightError: If the weight holds NaN or infinity.
    """
    if not clustering.native or clustering.exact or not native.serves_scalars(weight):
        return None
    work = precise(weight).view(groups, -1)
    low, high = (bound.double() for bound in finite_range(work))
    palettes = centroids.detach().reshape(groups, -1).double()
    result = native_scalars.cluster(work, low, high, palettes, clustering, skip_zeros=keep_zeros)
    palettized, updated = _Clustered.apply(weight, centroids, *result, clustering, keep_zeros)
    return palettized, updated


class _Clustered(torch.autograd.Function):
    """What was clustered, and its derivatives."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        centroids: Tensor,
        output: Tensor,
        clustered: ClusteredScalars,
        clustering: Clustering,
        keep_zeros: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.clustering, ctx.keep_zeros = clustering, keep_zeros
        ctx.save_for_backward(weight, centroids, *clustered)
        updated = clustered.trace[-1].to(centroids.dtype).view_as(centroids)
        return output.to(weight.dtype).view_as(weight), updated

    @staticmethod
    def backward(
        ctx: Any, output_gradient: Tensor, centroid_gradient: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None, None]:
        weight, centroids, *saved = ctx.saved_tensors
        clustered = ClusteredScalars(*saved)
        groups, clusters = clustered.trace.shape[1:]
        by_weight, by_centroids = native_scalars.differentiate(
            precise(weight).view(groups, -1),
            precise(output_gradient).view(groups, -1),
            centroid_gradient.reshape(groups, clusters).double(),
            clustered,
            ctx.clustering,
            skip_zeros=ctx.keep_zeros,
        )
        by_centroids = by_centroids.to(centroids.dtype).view_as(centroids)
        return by_weight.to(weight.dtype).view_as(weight), by_centroids, None, None, None, None
