"""K-means of vectors: Lloyd's iterations from seeds chosen by k-means++ (Arthur and Vassilvitskii, 2007).

Deterministic, so that every process of a distributed fit begins with the same palette.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from lightning_compress.dkm import native

_SEED = 0
_RESTARTS = 3
_ITERATIONS = 50
_MOST_POINTS = 1 << 16
"""More vectors than this are represented by evenly spaced ones."""

_QUICK_RESTARTS, _QUICK_ITERATIONS = 1, 15
_QUICK_POINTS, _QUICK_POINTS_OF_CLUSTER = 1 << 12, 64
"""Vectors enough to begin with: as many, or more for each centroid."""

_BLOCK = 1 << 22
"""Most distances that are held at once."""

_LEAST_WEIGHT = 1e-30
"""What no cluster that counts weighs less than: weights have a mean of one."""


def kmeans(points: Tensor, n_clusters: int, weights: Tensor | None = None, *, quick: bool = False) -> Tensor:
    """Cluster vectors.

    Args:
        points: Finite, shape (N, D), on the CPU.
        n_clusters: Number K of centroids.
        weights: How much the square of each difference counts, not negative, (N, D); all the same by default.
        quick: Find centroids to begin with, which training improves in every step: of fewer vectors, in one run.

    Returns:
        The best of several runs, shape (K, D); centroids repeat where there are fewer distinct vectors.
    """
    most = max(_QUICK_POINTS, _QUICK_POINTS_OF_CLUSTER * n_clusters) if quick else _MOST_POINTS
    if points.shape[0] > most:
        chosen = torch.linspace(0, points.shape[0] - 1, most, dtype=torch.float64).round().long()
        points = points[chosen]
        weights = None if weights is None else weights[chosen]
    generator = torch.Generator().manual_seed(_SEED)
    best, least = points.new_zeros((n_clusters, points.shape[1])), torch.inf
    if not points.shape[0]:
        return best
    for _ in range(_QUICK_RESTARTS if quick else _RESTARTS):
        seeds = _seeds(points, n_clusters, generator, weights)
        centroids, inertia = _lloyd(points, seeds, weights, _QUICK_ITERATIONS if quick else _ITERATIONS)
        if inertia < least:
            best, least = centroids, inertia
    return best


def nearest(
    points: Tensor, centroids: Tensor, preference: float = 0.0, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """For each point the index of its nearest centroid and the squared distance.

    Args:
        points: Shape (N, D).
        centroids: Shape (K, D).
        preference: How much nearer, in squared distance, the first centroid seems than it is.
        weights: How much the square of each difference counts, (N, D); all the same by default.
    """
    indices, distances = [], []
    rows = max(1, _BLOCK // centroids.shape[0])
    weighted = [None] if weights is None else torch.split(weights, rows)
    for part, counts in zip(torch.split(points, rows), itertools.cycle(weighted)):
        if counts is None:
            distance = torch.cdist(part, centroids).square_()
        else:
            distance = _weighted_distances(part, centroids, counts)
        if preference:
            distance[:, 0] -= preference
        found = distance.min(dim=-1)
        indices.append(found.indices)
        distances.append(found.values)
    return torch.cat(indices), torch.cat(distances)


def _weighted_distances(points: Tensor, centroids: Tensor, weights: Tensor) -> Tensor:
    """Squared distances, (N, K), by products of matrices."""
    distance = (weights * points * points).sum(dim=-1, keepdim=True) - 2 * (weights * points) @ centroids.t()
    return distance.add_(weights @ centroids.square().t()).clamp_min_(0)


def _seeds(points: Tensor, n_clusters: int, generator: torch.Generator, weights: Tensor | None) -> Tensor:
    first = int(torch.randint(points.shape[0], (), generator=generator))
    seeds = [points[first]]
    distance = _distance_to(points, seeds[0], weights)
    while len(seeds) < n_clusters:
        total = distance.cumsum(dim=0, dtype=torch.float64)
        drawn = torch.rand((), dtype=torch.float64, generator=generator) * total[-1]
        index = min(int(torch.searchsorted(total, drawn, right=True)), points.shape[0] - 1)
        seeds.append(points[index])
        distance = torch.minimum(distance, _distance_to(points, points[index], weights))
    return torch.stack(seeds)


def _distance_to(points: Tensor, centroid: Tensor, weights: Tensor | None) -> Tensor:
    squares = (points - centroid).square()
    return (squares if weights is None else squares * weights).sum(dim=-1)


def _lloyd(
    points: Tensor, centroids: Tensor, weights: Tensor | None, iterations: int
) -> tuple[Tensor, float]:
    previous = torch.inf
    inertia = torch.inf
    if weights is None and native.serves_vectors(points, centroids):
        turned = points.t().contiguous()
        for _ in range(iterations):
            moved, inertia = native.move_once(turned, centroids)
            if inertia >= previous * (1 - 1e-6):
                break
            previous, centroids = inertia, moved.to(points.dtype)
        return centroids, inertia
    for _ in range(iterations):
        index, distance = nearest(points, centroids, weights=weights)
        inertia = float(distance.sum(dtype=torch.float64))
        if inertia >= previous * (1 - 1e-6):
            break
        previous = inertia
        if weights is not None:
            total = torch.zeros_like(centroids).index_add_(0, index, weights)
            sums = torch.zeros_like(centroids).index_add_(0, index, weights * points)
            centroids = torch.where(total > 0, sums / total.clamp_min(_LEAST_WEIGHT), centroids)
            continue
        count = torch.bincount(index, minlength=centroids.shape[0]).to(points.dtype).unsqueeze(-1)
        sums = torch.zeros_like(centroids).index_add_(0, index, points)
        centroids = torch.where(count > 0, sums / count.clamp_min(1), centroids)
    return centroids, inertia
