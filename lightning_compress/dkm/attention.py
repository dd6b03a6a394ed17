"""Differentiable k-means on a few points that carry masses: the iterations and their exact derivatives.

With points x, masses n, centroids c and temperature tau (Cho et al., "DKM: Differentiable K-Means Clustering Layer
for Neural Network Compression", arXiv 2108.12659):

    p_mj = softmax_j(-(x_m - c_j)^2 / tau),  a_mj = max(p_mj, floor),  c'_j = sum_m n_m a_mj x_m / sum_m n_m a_mj,

repeated, and f(x) = sum_j a_j(x) c'_j with the attention of the last iteration and the centroids after it.

Everything but p itself is a product of p with thin matrices, in the derivatives too: with an upstream H_mj that is
linear in x_m, the gradient by the logits is r = q H - p (sum_j q H), where q is p where the floor does not bind, and
only sums of r over one of its two axes are wanted.

Shapes: points and masses (G, M) for G groups with a palette each, centroids (G, K). Attention is held as (G, K, M),
centroids first: they may be as few as two, and a softmax over so short a last axis is ten times slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 1 << 21
"""Most elements of an attention matrix that is held at once."""


@dataclass(frozen=True)
class Clustering:
    """What a differentiable k-means does, apart from weights and palette.

    Attributes:
        temperature: Softness of the assignment, in squared units of the weights.
        iterations: Largest number of centroid updates.
        epsilon: Change of the inertia at which to stop early, or None to do every iteration.
        attention_floor: Least attention that a weight pays to any centroid.
        fix_zero: Whether the first centroid of each group is held at zero.
        zero_preference: How much nearer, in squared distance, the first centroid seems than it is.
    """

    temperature: float
    iterations: int
    epsilon: float | None = None
    attention_floor: float = 0.0
    fix_zero: bool = False
    zero_preference: float = 0.0


class Iteration(NamedTuple):
    """One centroid update.

    Attributes:
        before: Centroids that the attention was paid to, (G, K).
        after: Updated centroids, (G, K).
        attended: Sum of masses times attention, (G, K).
        active: 1 where the update was made and 0 where an earlier stop came first, or None where it surely was.
    """

    before: Tensor
    after: Tensor
    attended: Tensor
    active: Tensor | None


class PointGradients(NamedTuple):
    """Derivatives at the points, shapes (G, M), and of the first centroids, (G, K)."""

    output_slope: Tensor
    """Derivative of the output f by the weight."""

    mass_slope: Tensor
    """Derivative of the loss, through the centroid updates, by the place of a unit of mass."""

    centroids: Tensor


def soft_assignment(points: Tensor, centroids: Tensor, clustering: Clustering) -> tuple[Tensor, Tensor]:
    """The attention p before its floor, (G, K, M), and each point's squared distance to its nearest centroid, (G, M).

    The distance is 0 where `epsilon` has no use for it.
    """
    temperature = clustering.temperature
    # (x - c)^2 without x^2, which the softmax does not feel; around the palette's middle, where little is lost by it.
    middle = centroids.mean(dim=-1, keepdim=True)
    points, centroids = points - middle, centroids - middle
    bias = centroids.square().mul_(-1 / temperature)
    if clustering.zero_preference:
        bias[..., 0] += clustering.zero_preference / temperature
    logits = torch.addcmul(
        bias.unsqueeze(-1), centroids.unsqueeze(-1), points.unsqueeze(-2), value=2 / temperature
    )
    distance = points.new_zeros(())
    if clustering.epsilon is not None:
        distance = points.square() - temperature * logits.amax(dim=-2)
    return torch.softmax(logits, dim=-2), distance


def cluster(
    points: Tensor,
    masses: Tensor,
    centroids: Tensor,
    clustering: Clustering,
    *,
    least_share: float = 1e-14,
) -> tuple[Tensor, list[Iteration]]:
    """Run the centroid updates.

    Args:
        points: Shape (G, M).
        masses: Shape (G, M).
        centroids: Shape (G, K).
        clustering: What to do.
        least_share: Share of a group's mass below which a centroid counts as attended by nothing. Masses gathered on
            points are rounded, and what is left of them far from all weights is noise.

    Returns:
        The palettized value f at each point, (G, M), and the iterations. On the CPU an early stop ends the list; a
        device that must not wait for the host goes on, with iterations that do nothing.
    """
    blocks = _blocks(points, centroids)
    floor = clustering.attention_floor
    first_moments = masses * points
    total = masses.sum(dim=-1, keepdim=True)
    iterations: list[Iteration] = []
    inertia: Tensor | None = None
    active: Tensor | None = None
    held: Tensor | None = None
    for _ in range(clustering.iterations):
        sums = centroids.new_zeros((*centroids.shape[:-1], 2, centroids.shape[-1]))
        present = points.new_zeros(())
        for block in blocks:
            soft, distance = soft_assignment(points[:, block], centroids, clustering)
            held = _at_least(soft, floor) if len(blocks) == 1 else None
            attention = _at_least(soft, floor) if held is None else held
            sums += _over_points(attention, masses[:, block], first_moments[:, block])
            present = present + (masses[:, block] * distance).sum()
        # A centroid that no weight attends to stays where it is.
        attended = torch.where(sums[..., 0, :] > least_share * total, sums[..., 0, :], torch.inf)
        after = torch.where(attended < torch.inf, sums[..., 1, :] / attended, centroids)
        if clustering.fix_zero:
            after = torch.cat((torch.zeros_like(after[..., :1]), after[..., 1:]), dim=-1)
        if active is not None:
            after = torch.where(active > 0, after, centroids)
        iterations.append(Iteration(centroids, after, attended, active))
        centroids = after
        if clustering.epsilon is not None:
            if inertia is not None:
                stop = ((inertia - present).abs() <= clustering.epsilon) & (inertia != 0)
                if points.device.type != "cpu":
                    going_on = (~stop).to(points.dtype)
                    active = going_on if active is None else active * going_on
                elif stop:
                    break
            inertia = present
    last = _last(iterations)
    if active is None and held is not None:
        return _over_clusters(held, last.after)[0], iterations
    output = torch.empty_like(points)
    for block in blocks:
        soft, _ = soft_assignment(points[:, block], last.before, clustering)
        output[:, block] = _over_clusters(_at_least(soft, floor), last.after)[0]
    return output, iterations


def gradients(
    points: Tensor,
    masses: Tensor,
    output_gradient: Tensor,
    centroid_gradient: Tensor,
    iterations: list[Iteration],
    clustering: Clustering,
) -> PointGradients:
    """Derivatives of a loss whose gradient by the output is `output_gradient`, carried by the points as masses are.

    Args:
        points: Shape (G, M).
        masses: Shape (G, M).
        output_gradient: Shape (G, M): the weights' upstream gradients, deposited on the points.
        centroid_gradient: The loss's gradient by the last centroids, (G, K).
        iterations: As `cluster` returned them.
        clustering: The same as in the forward pass.
    """
    last = _last(iterations)
    gradient, before_gradient, output_slope = _output_gradients(points, output_gradient, last, clustering)
    gradient = gradient + centroid_gradient
    mass_slope = torch.zeros_like(points)
    for position in range(len(iterations) - 1, -1, -1):
        iteration = iterations[position]
        update, slope = _update_gradients(points, masses, gradient, iteration, clustering)
        # The attention of the output is that of the last iteration, and reaches back to the centroids before it.
        if iteration.active is None:
            gradient = update + before_gradient if position == len(iterations) - 1 else update
            mass_slope += slope
        else:
            gradient = torch.where(iteration.active > 0, update, gradient)
            mass_slope += slope * iteration.active
            following = iterations[position + 1].active if position + 1 < len(iterations) else None
            is_last = iteration.active * (1 - following) if following is not None else iteration.active
            gradient = gradient + before_gradient * is_last
    return PointGradients(output_slope, mass_slope, gradient)


def _output_gradients(
    points: Tensor, upstream: Tensor, last: Iteration, clustering: Clustering
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by the centroids after and before the last iteration through f, and the slope of f."""
    factor = 2 / clustering.temperature
    before, after = last.before, last.after
    by_after, by_before, slope = torch.zeros_like(after), torch.zeros_like(before), torch.empty_like(points)
    for block in _blocks(points, after):
        x, g = points[:, block], upstream[:, block]
        soft, _ = soft_assignment(x, before, clustering)
        free = _where_free(soft, clustering.attention_floor)
        by_after += _over_points(_at_least(soft, clustering.attention_floor), g)[..., 0, :]
        values, products = _over_clusters(free, after, after * before)
        (mean,) = _over_clusters(soft, before)
        slope[:, block] = factor * (products - values * mean)
        freely = _over_points(free, g, g * x)
        bound = _over_points(soft, g * values, g * x * values)
        reaction = after.unsqueeze(-2) * freely - bound
        by_before += factor * (reaction[..., 1, :] - before * reaction[..., 0, :])
    return by_after, by_before, slope


def _update_gradients(
    points: Tensor, masses: Tensor, gradient: Tensor, iteration: Iteration, clustering: Clustering
) -> tuple[Tensor, Tensor]:
    """Gradient by the centroids before an update from that by those after it, and by the place of a unit of mass."""
    factor = 2 / clustering.temperature
    before, after = iteration.before, iteration.after
    share = gradient / iteration.attended
    # Centroids that nothing attended to stayed where they were.
    by_before = torch.where(iteration.attended < torch.inf, 0.0, gradient)
    if clustering.fix_zero:
        free_to_move = torch.ones_like(share)
        free_to_move[..., 0] = 0.0
        share, by_before = share * free_to_move, by_before * free_to_move
    offset = share * after
    slope = torch.empty_like(points)
    for block in _blocks(points, after):
        x, n = points[:, block], masses[:, block]
        soft, _ = soft_assignment(x, before, clustering)
        free = _where_free(soft, clustering.attention_floor)
        shares, offsets, share_products, offset_products = _over_clusters(
            free, share, offset, share * before, offset * before
        )
        (mean,) = _over_clusters(soft, before)
        lever = x * shares - offsets
        slope[:, block] = factor * (x * share_products - offset_products - lever * mean)
        slope[:, block] += _over_clusters(_at_least(soft, clustering.attention_floor), share)[0]
        first = n * x
        freely = _over_points(free, n, first, first * x)
        bound = _over_points(soft, n * lever, first * lever)
        reaction = (
            share.unsqueeze(-2) * freely[..., 1:, :] - offset.unsqueeze(-2) * freely[..., :2, :] - bound
        )
        by_before = by_before + factor * (reaction[..., 1, :] - before * reaction[..., 0, :])
    return by_before, slope


def _last(iterations: list[Iteration]) -> Iteration:
    """The last iteration that was active."""
    last = iterations[0]
    for iteration in iterations[1:]:
        if iteration.active is None:
            last = iteration
        else:
            chosen = [
                torch.where(iteration.active > 0, new, old)
                for new, old in zip(iteration[:3], last[:3], strict=True)
            ]
            last = Iteration(chosen[0], chosen[1], chosen[2], None)
    return last


def _blocks(points: Tensor, centroids: Tensor) -> list[slice]:
    size = max(1, _BLOCK // centroids.numel())
    return [slice(start, start + size) for start in range(0, points.shape[-1], size)]


def _at_least(soft: Tensor, floor: float) -> Tensor:
    return soft.clamp_min(floor) if floor else soft


def _where_free(soft: Tensor, floor: float) -> Tensor:
    """The attention where its floor does not bind, 0 elsewhere."""
    return torch.threshold(soft, floor, 0.0) if floor else soft


def _over_clusters(matrix: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
    """Sums over centroids of attention times each of the vectors, (G, K): (G, M) each."""
    return (torch.stack(vectors, dim=-2) @ matrix).unbind(dim=-2)


def _over_points(matrix: Tensor, *vectors: Tensor) -> Tensor:
    """Sums over points of attention times each of the vectors, (G, M): (G, vectors, K)."""
    return (matrix @ torch.stack(vectors, dim=-1)).mT
