"""Differentiable k-means of vectors: the pass through it and its derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_compress.dkm import native, vector_clustering
from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.native import vectors as native_clustering
from lightning_compress.dkm.vector_iterations import VectorIterations, laid_out, precise


class PalettizeVectors(torch.autograd.Function):
    """Clustered weights and new centroids, differentiable by weights and centroids.

    Until the backward pass nothing of the weight's size is held but the weight itself.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, centroids: Tensor, groups: int, clustering: Clustering, keep_zeros: bool
    ) -> tuple[Tensor, Tensor]:
        """Cluster a weight in `groups` equal parts around centroids (G, K, D), or (K, D)."""
        work, layout, palettes = laid_out(weight, centroids, groups)
        kernel = native_clustering if _serves(work, palettes, clustering) else vector_clustering
        output, iterations = kernel.cluster(work, layout, palettes, clustering, skip_zeros=keep_zeros)
        ctx.layout, ctx.clustering, ctx.keep_zeros = layout, clustering, keep_zeros
        ctx.save_for_backward(weight, centroids, *iterations)
        updated = iterations.trace[-1].to(centroids.dtype).view_as(centroids)
        return output.to(weight.dtype).view_as(weight), updated

    @staticmethod
    def backward(
        ctx: Any, output_gradient: Tensor, centroid_gradient: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None]:
        """Gradients by weight and centroids."""
        weight, centroids, *saved = ctx.saved_tensors
        work, upstream = precise(weight), precise(output_gradient)
        palettes = centroid_gradient.reshape(ctx.layout.groups, *centroids.shape[-2:])
        kernel = native_clustering if _serves(work, palettes, ctx.clustering) else vector_clustering
        by_weight, by_centroids = kernel.differentiate(
            work,
            ctx.layout,
            upstream,
            palettes,
            VectorIterations(*saved),
            ctx.clustering,
            skip_zeros=ctx.keep_zeros,
        )
        by_centroids = by_centroids.to(centroids.dtype).view_as(centroids)
        return by_weight.to(weight.dtype).view_as(weight), by_centroids, None, None, None


def _serves(work: Tensor, palettes: Tensor, clustering: Clustering) -> bool:
    return clustering.in_c and native.serves_vectors(work, palettes)
