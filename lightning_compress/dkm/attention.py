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

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 1 << 21
"""Most elements of an attention matrix that is held at once."""

_NEGLIGIBLE = {torch.float64: 1e-200, torch.float32: 1e-30}
"""Attention below this is none: masses times it would no longer be a normal number."""


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


class Attention(NamedTuple):
    """What the points pay to the centroids, (G, K, M)."""

    soft: Tensor
    """The softmax p."""

    free: Tensor
    """p where the floor does not bind, 0 elsewhere."""

    floored: Tensor
    """p, or the floor where that is more."""

    nearness: Tensor
    """The greatest logit of each point, (G, M), from which its squared distance to its nearest centroid follows."""


class Attender:
    """Computes the attention of points to one palette after another, in the same memory.

    Fresh memory costs more than the arithmetic: an attention matrix is too large for the allocator to keep.

    Args:
        points: Shape (G, M).
        clusters: Number of centroids K of each group.
        clustering: What to do.
    """

    def __init__(self, points: Tensor, clusters: int, clustering: Clustering) -> None:
        self._clustering = clustering
        # (x - c)^2 without x^2, which the softmax does not feel; around the middle of the range, where little is lost.
        self._middle = (points[:, :1] + points[:, -1:]) / 2
        self._scaled = (points - self._middle).mul_(2 / clustering.temperature).unsqueeze(-2)
        groups, size = points.shape
        block = min(size, max(1, _BLOCK // (groups * clusters)))
        self.blocks = [slice(start, min(size, start + block)) for start in range(0, size, block)]
        matrices = 3 if clustering.attention_floor else 1
        self._room = points.new_empty((matrices, groups * clusters * block))
        self._held: tuple[Tensor, slice, Attention] | None = None

    def pay(self, centroids: Tensor, block: slice) -> Attention:
        """The attention of a block of points to centroids (G, K), valid until the next call."""
        if self._held is not None and self._held[0] is centroids and self._held[1] == block:
            return self._held[2]
        temperature, floor = self._clustering.temperature, self._clustering.attention_floor
        moved = centroids - self._middle
        bias = moved.square().mul_(-1 / temperature)
        if self._clustering.zero_preference:
            bias[..., 0] += self._clustering.zero_preference / temperature
        shape = (*centroids.shape, block.stop - block.start)
        room = [part[: math.prod(shape)].view(shape) for part in self._room]
        soft = room[0]
        torch.addcmul(bias.unsqueeze(-1), moved.unsqueeze(-1), self._scaled[..., block], out=soft)
        nearness = soft.amax(dim=-2, keepdim=True)
        # Exponentials that underflow, and products with what is less than a normal number, take many times as long.
        negligible = _NEGLIGIBLE[soft.dtype]
        soft.sub_(nearness).clamp_min_(math.log(negligible)).exp_()
        soft.div_(soft.sum(dim=-2, keepdim=True))
        torch.threshold_(soft, negligible, 0.0)
        free = floored = soft
        if floor:
            free, floored = room[1].copy_(soft), torch.clamp_min(soft, floor, out=room[2])
            torch.threshold_(free, floor, 0.0)
        attention = Attention(soft, free, floored, nearness.squeeze(-2))
        self._held = (centroids, block, attention)
        return attention

    def inertia(self, masses: Tensor, second_moment: Tensor, nearness: Tensor) -> Tensor:
        """Sum of masses times squared distances to the nearest centroids."""
        return second_moment - self._clustering.temperature * (masses * nearness).sum()

    def second_moment(self, masses: Tensor) -> Tensor:
        """Sum of masses times squared points, as `inertia` wants it."""
        centred = self._scaled.squeeze(-2) * (self._clustering.temperature / 2)
        return (masses * centred.square_()).sum()


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
    attender = Attender(points, centroids.shape[-1], clustering)
    moments = torch.stack((masses, masses * points), dim=-1)
    least = masses.sum(dim=-1, keepdim=True).mul_(least_share)
    watched = clustering.epsilon is not None and clustering.iterations > 1
    second_moment = attender.second_moment(masses) if watched else masses.new_zeros(())
    iterations: list[Iteration] = []
    inertia: Tensor | None = None
    active: Tensor | None = None
    for position in range(clustering.iterations):
        sums, nearness = _sum_up(attender, masses, moments, centroids, watched)
        # A centroid that no weight attends to stays where it is.
        attended = sums[..., 0].masked_fill(sums[..., 0] <= least, torch.inf)
        after = torch.where(attended < torch.inf, sums[..., 1] / attended, centroids)
        if clustering.fix_zero:
            after[..., 0] = 0.0
        if active is not None:
            after = torch.where(active > 0, after, centroids)
        iterations.append(Iteration(centroids, after, attended, active))
        centroids = after
        if watched and position + 1 < clustering.iterations:
            assert clustering.epsilon is not None
            present = attender.inertia(masses, second_moment, nearness)
            if inertia is not None:
                stop = ((inertia - present).abs() <= clustering.epsilon) & (inertia != 0)
                if points.device.type != "cpu":
                    going_on = (~stop).to(points.dtype)
                    active = going_on if active is None else active * going_on
                elif stop:
                    break
            inertia = present
    last = _last(iterations)
    output = torch.empty_like(points)
    for block in attender.blocks:
        attention = attender.pay(last.before, block)
        output[:, block] = _over_clusters(attention.floored, last.after)[0]
    return output, iterations


def _sum_up(
    attender: Attender, masses: Tensor, moments: Tensor, centroids: Tensor, watched: bool
) -> tuple[Tensor, Tensor]:
    """Sums of attention times masses and their first moments, (G, K, 2), and the points' nearness to centroids."""
    sums, nearness = [], []
    for block in attender.blocks:
        attention = attender.pay(centroids, block)
        sums.append(attention.floored @ moments[:, block])
        if watched:
            nearness.append(attention.nearness)
    if len(sums) == 1:
        return sums[0], nearness[0] if watched else masses
    return torch.stack(sums).sum(dim=0), torch.cat(nearness, dim=-1) if watched else masses


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
    attender = Attender(points, centroid_gradient.shape[-1], clustering)
    last = _last(iterations)
    gradient, before_gradient, output_slope = _output_gradients(
        attender, points, output_gradient, last, clustering
    )
    gradient = gradient + centroid_gradient
    moments = torch.stack((masses, masses * points, masses * points * points), dim=-1)
    mass_slope: Tensor | None = None
    for position in range(len(iterations) - 1, -1, -1):
        iteration = iterations[position]
        update, slope = _update_gradients(attender, points, moments, gradient, iteration, clustering)
        # The attention of the output is that of the last iteration, and reaches back to the centroids before it.
        if iteration.active is None:
            gradient = update + before_gradient if position == len(iterations) - 1 else update
        else:
            gradient = torch.where(iteration.active > 0, update, gradient)
            slope = slope * iteration.active
            following = iterations[position + 1].active if position + 1 < len(iterations) else None
            is_last = iteration.active * (1 - following) if following is not None else iteration.active
            gradient = gradient + before_gradient * is_last
        mass_slope = slope if mass_slope is None else mass_slope + slope
    assert mass_slope is not None
    return PointGradients(output_slope, mass_slope, gradient)


def _output_gradients(
    attender: Attender, points: Tensor, upstream: Tensor, last: Iteration, clustering: Clustering
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by the centroids after and before the last iteration through f, and the slope of f."""
    factor = 2 / clustering.temperature
    before, after = last.before, last.after
    thin = torch.stack((upstream, upstream * points), dim=-1)
    vectors = torch.stack((after, after * before), dim=-2)
    by_after: list[Tensor] = []
    by_before: list[Tensor] = []
    slope = torch.empty_like(points)
    for block in attender.blocks:
        soft, free, floored, _ = attender.pay(before, block)
        carried = thin[:, block]
        values, products = (vectors @ free).unbind(dim=-2)
        (mean,) = _over_clusters(soft, before)
        torch.addcmul(products, values, mean, value=-1, out=slope[:, block])
        freely = free @ carried
        by_after.append(freely[..., 0] if floored is free else (floored @ carried[..., :1]).squeeze(-1))
        reaction = after.unsqueeze(-1) * freely - soft @ (carried * values.unsqueeze(-1))
        by_before.append(reaction[..., 1] - before * reaction[..., 0])
    return _total(by_after), _total(by_before) * factor, slope.mul_(factor)


def _update_gradients(
    attender: Attender,
    points: Tensor,
    moments: Tensor,
    gradient: Tensor,
    iteration: Iteration,
    clustering: Clustering,
) -> tuple[Tensor, Tensor]:
    """Gradient by the centroids before an update from that by those after it, and by the place of a unit of mass."""
    factor = 2 / clustering.temperature
    before, after = iteration.before, iteration.after
    share = gradient / iteration.attended
    # Centroids that nothing attended to stayed where they were.
    stayed = torch.where(iteration.attended < torch.inf, 0.0, gradient)
    if clustering.fix_zero:
        share[..., 0] = 0.0
        stayed[..., 0] = 0.0
    offset = share * after
    vectors = torch.stack((share, offset, share * before, offset * before), dim=-2)
    by_before: list[Tensor] = []
    slope = torch.empty_like(points)
    for block in attender.blocks:
        x = points[:, block]
        soft, free, floored, _ = attender.pay(before, block)
        shares, offsets, share_products, offset_products = (vectors @ free).unbind(dim=-2)
        (mean,) = _over_clusters(soft, before)
        lever = x * shares - offsets
        steep = torch.addcmul(x * share_products - offset_products, lever, mean, value=-1)
        held = shares if floored is free else _over_clusters(floored, share)[0]
        torch.add(held, steep, alpha=factor, out=slope[:, block])
        freely = free @ moments[:, block]
        bound = soft @ (moments[:, block, :2] * lever.unsqueeze(-1))
        reaction = share.unsqueeze(-1) * freely[..., 1:] - offset.unsqueeze(-1) * freely[..., :2] - bound
        by_before.append(reaction[..., 1] - before * reaction[..., 0])
    return torch.add(stayed, _total(by_before), alpha=factor), slope


def _total(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0)


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


def _over_clusters(matrix: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
    """Sums over centroids of attention times each of the vectors, (G, K): (G, M) each."""
    return (torch.stack(vectors, dim=-2) @ matrix).unbind(dim=-2)
