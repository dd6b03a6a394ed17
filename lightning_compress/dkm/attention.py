"""Differentiable k-means on a few points that carry masses: the iterations and their exact derivatives.

With points x, masses n, centroids c and temperature tau (Cho et al., "DKM: Differentiable K-Means Clustering Layer
for Neural Network Compression", arXiv 2108.12659):

    p_mj = softmax_j(-(x_m - c_j)^2 / tau),  a_mj = max(p_mj, floor),  c'_j = sum_m n_m a_mj x_m / sum_m n_m a_mj,

repeated, and f(x) = sum_j a_j(x) c'_j with the attention of the last iteration and the centroids after it.

Shapes: points and masses (G, M) for G groups with a palette each, centroids (G, K).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_compress.dkm import native
from lightning_compress.dkm.attender import Attender
from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.local_attender import LocalAttender
from lightning_compress.dkm.native import NativeAttender

_AnyAttender = Attender | LocalAttender | NativeAttender


class Iteration(NamedTuple):
    """One centroid update.

    Attributes:
        before: Centroids that the attention was paid to, (G, K).
        after: Updated centroids, (G, K).
        attended: Sum of masses times attention, (G, K).
        active: 1 for groups whose update was made and 0 where an earlier stop came first, (G, 1), or None where all
            were surely made.
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


def cluster(
    points: Tensor,
    masses: Tensor,
    centroids: Tensor,
    clustering: Clustering,
    *,
    least_share: float,
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
        The palettized value f at each point, (G, M), and the iterations. On the CPU a stop of all groups ends the list;
        a device that must not wait for the host goes on, with iterations that do nothing.
    """
    attender = _attender(points, clustering)
    least = masses.sum(dim=-1, keepdim=True).mul_(least_share)
    iterations: list[Iteration] = []
    second_moment: Tensor | None = None
    inertia: Tensor | None = None
    active: Tensor | None = None
    for position in range(clustering.iterations):
        sums, nearness = attender.sum_up(masses, centroids)
        # A centroid that no weight attends to stays where it is.
        attended = sums[..., 0].masked_fill(sums[..., 0] <= least, torch.inf)
        after = torch.where(attended < torch.inf, sums[..., 1] / attended, centroids)
        if clustering.fix_zero:
            after[..., 0] = 0.0
        if active is not None:
            after = torch.where(active > 0, after, centroids)
        iterations.append(Iteration(centroids, after, attended, active))
        centroids = after
        if clustering.epsilon is not None and position + 1 < clustering.iterations:
            if second_moment is None:
                middle = (points[:, :1] + points[:, -1:]) / 2
                second_moment = (masses * (points - middle).square_()).sum(dim=-1, keepdim=True)
            previous, inertia = inertia, torch.sub(second_moment, nearness, alpha=clustering.temperature)
            if previous is None:
                continue
            stop = ((previous - inertia).abs() <= clustering.epsilon) & (previous != 0)
            if clustering.may_wait(points):
                stopped = stop if active is None else stop | (active == 0)
                if bool(stopped.all()):
                    break
                if active is None and not bool(stop.any()):
                    continue
            going_on = (~stop).to(points.dtype)
            active = going_on if active is None else active * going_on
    last = _last(iterations)
    return attender.evaluate(last.before, last.after), iterations


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
    attender = _attender(points, clustering)
    last = _last(iterations)
    by_after, by_before, output_slope = attender.output_gradients(output_gradient, last.before, last.after)
    gradient = by_after + centroid_gradient
    mass_slope: Tensor | None = None
    for position in range(len(iterations) - 1, -1, -1):
        iteration = iterations[position]
        update, slope = _through_update(attender, masses, gradient, iteration, clustering)
        if iteration.active is not None:
            update = torch.where(iteration.active > 0, update, gradient)
            slope = slope * iteration.active
        # The attention of the output is that of a group's last iteration, and reaches back to the centroids before it.
        following = iterations[position + 1].active if position + 1 < len(iterations) else None
        if position + 1 == len(iterations):
            is_last = iteration.active
            gradient = update + (by_before if is_last is None else by_before * is_last)
        elif following is not None:
            is_last = 1 - following if iteration.active is None else iteration.active * (1 - following)
            gradient = update + by_before * is_last
        else:
            gradient = update
        mass_slope = slope if mass_slope is None else mass_slope + slope
    assert mass_slope is not None
    return PointGradients(output_slope, mass_slope, gradient)


def _through_update(
    attender: _AnyAttender,
    masses: Tensor,
    gradient: Tensor,
    iteration: Iteration,
    clustering: Clustering,
) -> tuple[Tensor, Tensor]:
    """Gradient by the centroids before an update from that by those after it, and by the place of a unit of mass."""
    share = gradient / iteration.attended
    # Centroids that nothing attended to stayed where they were.
    stayed = torch.where(iteration.attended < torch.inf, 0.0, gradient)
    if clustering.fix_zero:
        share[..., 0] = 0.0
        stayed[..., 0] = 0.0
    moved, slope = attender.update_gradients(masses, iteration.before, share, share * iteration.after)
    return stayed + moved, slope


def _attender(points: Tensor, clustering: Clustering) -> _AnyAttender:
    if points.dtype == torch.float32 and LocalAttender.serves(points):
        return LocalAttender(points, clustering)
    if clustering.in_c and native.serves(points) and points.dtype == torch.float64:
        return NativeAttender(points, clustering)
    return Attender(points, clustering)


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
