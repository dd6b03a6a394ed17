"""Vectors put in the place of their nearest centroids, with gradients that pass straight through.

The estimator of quantization-aware training (Bengio et al., arXiv 1308.3432) on a palette: forward, each vector is its
nearest centroid, and each centroid the mean of the vectors nearest to it (an update of Lloyd's k-means); backward, a
weight has the gradient of what stands in its place. It costs distances, and no attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_compress.dkm import native
from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.vector_attender import squared_distances, vector_blocks
from lightning_compress.dkm.vector_clustering import from_points, to_points
from lightning_compress.dkm.vector_iterations import VectorLayout, laid_out, precise


def assign(
    weight: Tensor, layout: VectorLayout, palettes: Tensor, clustering: Clustering, *, skip_zeros: bool
) -> tuple[Tensor, Tensor]:
    """Move centroids to the means of the vectors nearest to them, and put those in the vectors' place.

    Args:
        weight: Contiguous, in single or double precision.
        layout: How its vectors lie in it.
        palettes: Shape (G, K, D).
        clustering: How often centroids move, whether the first is held at zero and what it is preferred by.
        skip_zeros: Vectors that are zero throughout take no part and stay zero.

    Returns:
        The weight of centroids, of its shape, and the palettes moved.
    """
    points = to_points(weight, layout)
    present = (points != 0).any(dim=-1, keepdim=True).to(points.dtype) if skip_zeros else None
    wide = torch.float32 if weight.device.type == "mps" else torch.float64
    counted = torch.cat((torch.ones_like(points[..., :1]), points), dim=-1)
    counted = (counted if present is None else counted * present).to(wide)
    palettes = palettes.to(wide)
    for _ in range(clustering.iterations):
        index = _nearest(points, palettes, clustering.zero_preference)
        sums = torch.zeros((*palettes.shape[:2], counted.shape[-1]), dtype=wide, device=weight.device)
        sums.scatter_add_(1, index.unsqueeze(-1).expand_as(counted), counted)
        paid = sums[..., :1] > 0
        palettes = torch.where(paid, sums[..., 1:] / torch.where(paid, sums[..., :1], 1.0), palettes)
        if clustering.fix_zero:
            palettes[:, 0] = 0.0
    output = torch.gather(palettes.to(points.dtype), 1, index.unsqueeze(-1).expand_as(points))
    output = output if present is None else output * present
    return from_points(output, layout).view_as(weight), palettes


def _nearest(points: Tensor, palettes: Tensor, zero_preference: float) -> Tensor:
    """The number of the nearest centroid of each vector, (G, N)."""
    found = [
        squared_distances(points[:, block], palettes, zero_preference).argmin(dim=-1)
        for block in vector_blocks(points, palettes)
    ]
    return torch.cat(found, dim=1)


class AssignStraightThrough(torch.autograd.Function):
    """A weight of centroids, and the palettes moved; the gradient by the weight is that by what stands in its place."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, centroids: Tensor, groups: int, clustering: Clustering, keep_zeros: bool
    ) -> tuple[Tensor, Tensor]:
        """Assign a weight in `groups` equal parts to centroids (G, K, D), or (K, D)."""
        work, layout, palettes = laid_out(weight, centroids, groups)
        if clustering.in_c and native.serves_vectors(work, palettes):
            output, moved = native.assign(work, layout, palettes, clustering, skip_zeros=keep_zeros)
        else:
            output, moved = assign(work, layout, palettes, clustering, skip_zeros=keep_zeros)
        updated = moved.to(centroids.dtype).view_as(centroids)
        ctx.mark_non_differentiable(updated)
        ctx.keep_zeros, ctx.layout = keep_zeros, layout
        ctx.save_for_backward(*((weight,) if keep_zeros else ()))
        return output.to(weight.dtype).view_as(weight), updated

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The gradient that came, but for weights that stay zero."""
        if ctx.keep_zeros:
            (weight,) = ctx.saved_tensors
            there = (to_points(precise(weight), ctx.layout) != 0).any(dim=-1, keepdim=True)
            there = there.expand(*there.shape[:2], ctx.layout.dimensions)
            upstream = upstream * from_points(there, ctx.layout).view_as(upstream)
        return upstream, None, None, None, None
