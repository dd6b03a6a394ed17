"""Differentiable k-means of vectors in C: whole clusterings, as `dkm.vector_clustering`, which see."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.native.library import attention_options, call, early_stop, has, parts_for, threads
from lightning_compress.dkm.vector_iterations import VectorIterations, VectorLayout

_LEAST_PART = 1 << 14
"""Elements of an attention matrix worth a thread."""

_MOST_CLUSTERS, _MOST_DIMENSIONS = 256, 64

_MANY = 64
"""Centroids of which few matter to vectors that are near each other, so that sorting those pays."""

_BLOCK, _WORD = 8, 64
"""Vectors of the smallest block, and centroids of a word."""


def serves_vectors(weight: Tensor, palettes: Tensor) -> bool:
    """Whether vectors can be clustered in C: single precision on a processor, and palettes of what Core ML holds."""
    clusters, dimensions = palettes.shape[-2:]
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and clusters <= _MOST_CLUSTERS
        and dimensions <= _MOST_DIMENSIONS
        and has("cluster_vectors")
    )


def cluster(
    weight: Tensor, layout: VectorLayout, palettes: Tensor, clustering: Clustering, *, skip_zeros: bool
) -> tuple[Tensor, VectorIterations]:
    """As `vector_clustering.cluster`."""
    groups, clusters, _ = palettes.shape
    trace = torch.empty((clustering.iterations + 1, *palettes.shape), dtype=torch.float64)
    trace[0] = palettes
    attended = torch.empty((clustering.iterations, groups, clusters), dtype=torch.float64)
    done = torch.empty(groups, dtype=torch.int64)
    order, near = _neighbours(layout, clusters)
    output = torch.empty_like(weight)
    call(
        "cluster_vectors",
        threads(),
        _parts(layout, clusters),
        weight,
        *layout,
        clusters,
        clustering.iterations,
        early_stop(clustering),
        *attention_options(clustering, skip_zeros),
        trace,
        attended,
        done,
        order,
        near,
        output,
    )
    return output, VectorIterations(trace, attended, done, order, near)


def differentiate(
    weight: Tensor,
    layout: VectorLayout,
    upstream: Tensor,
    by_last: Tensor,
    iterations: VectorIterations,
    clustering: Clustering,
    *,
    skip_zeros: bool,
) -> tuple[Tensor, Tensor]:
    """As `vector_clustering.differentiate`."""
    by_weight, by_first = torch.empty_like(weight), torch.empty_like(iterations.trace[0])
    clusters = by_first.shape[1]
    if iterations.near is not None and len(iterations.attended) > 1:
        # Earlier updates find what was near then; a second backward pass needs what is there.
        iterations = iterations._replace(near=iterations.near.clone())
    call(
        "differentiate_vectors",
        threads(),
        _parts(layout, clusters),
        weight,
        upstream,
        *layout,
        clusters,
        *attention_options(clustering, skip_zeros),
        *iterations,
        by_last.to(torch.float64).contiguous(),
        by_weight,
        by_first,
    )
    return by_weight, by_first


def assign(
    weight: Tensor, layout: VectorLayout, palettes: Tensor, clustering: Clustering, *, skip_zeros: bool
) -> tuple[Tensor, Tensor]:
    """As `straight_through.assign`."""
    output = torch.empty_like(weight)
    moved, _ = _assign(weight, layout, palettes, clustering, skip_zeros, output)
    return output, moved


def move_once(points: Tensor, palette: Tensor) -> tuple[Tensor, float]:
    """An update of Lloyd's k-means.

    Args:
        points: Vectors, element by element, contiguous, (D, N).
        palette: Shape (K, D).

    Returns:
        The means of the vectors nearest to each centroid, or where it is if there is none, (K, D), float64; and the
        sum of squared distances to the centroids before.
    """
    layout = VectorLayout(1, 1, *points.shape)
    moved, inertia = _assign(points, layout, palette.unsqueeze(0), Clustering(1.0, 1), False, None)
    return moved[0], float(inertia)


def _assign(
    weight: Tensor,
    layout: VectorLayout,
    palettes: Tensor,
    clustering: Clustering,
    skip_zeros: bool,
    output: Tensor | None,
) -> tuple[Tensor, Tensor]:
    moved = palettes.to(torch.float64, copy=True).contiguous()
    inertia = torch.empty(layout.groups, dtype=torch.float64)
    call(
        "assign_vectors",
        threads(),
        _parts(layout, palettes.shape[1]),
        weight,
        *layout,
        palettes.shape[1],
        clustering.iterations,
        clustering.zero_preference,
        int(clustering.fix_zero),
        int(skip_zeros),
        moved,
        inertia,
        output,
    )
    return moved, inertia


def _neighbours(layout: VectorLayout, clusters: int) -> tuple[Tensor | None, Tensor | None]:
    """Room for the order of vectors and for the centroids near each block of them, where a palette has many."""
    vectors = layout.chunks * layout.row
    if clusters < _MANY or vectors * layout.dimensions >= 1 << 31:
        return None, None
    blocks, words = -(-vectors // _BLOCK), -(-clusters // _WORD)
    order = torch.empty(layout.groups, vectors, dtype=torch.int32)
    return order, torch.empty(layout.groups, blocks, words, dtype=torch.int64)


def _parts(layout: VectorLayout, clusters: int) -> int:
    return parts_for(layout.chunks * layout.row * clusters, _LEAST_PART)
