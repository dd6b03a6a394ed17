"""Differentiable k-means on a few points that carry masses: the iterations and their exact derivatives.

With points x, masses n, centroids c and temperature tau (Cho et al., "DKM: Differentiable K-Means Clustering Layer
for Neural Network Compression", arXiv 2108.12659):

    p_mj = softmax_j(-(x_m - c_j)^2 / tau),  a_mj = max(p_mj, floor),  c'_j = sum_m n_m a_mj x_m / sum_m n_m a_mj,

repeated, and f(x) = sum_j a_j(x) c'_j with the attention of the last iteration and the centroids after it.

Shapes: points and masses (G, M) for G groups with a palette each, centroids (G, K).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_LEAST_SHARE = 1e-14
"""Share of the mass below which a centroid counts as attended by nothing."""


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


class PointGradients(NamedTuple):
    """Derivatives at the points, shapes (G, M), and of the first centroids, (G, K)."""

    output_slope: Tensor
    """Derivative of the output f by the weight."""

    mass_slope: Tensor
    """Derivative of the loss, through the centroid updates, by the place of a unit of mass."""

    centroids: Tensor


def attention(points: Tensor, centroids: Tensor, clustering: Clustering) -> tuple[Tensor, Tensor]:
    """Differences x - c and the attention before its floor, both (G, M, K)."""
    difference = points.unsqueeze(-1) - centroids.unsqueeze(-2)
    logits = (difference * difference).mul_(-1.0 / clustering.temperature)
    if clustering.zero_preference:
        logits[..., 0] += clustering.zero_preference / clustering.temperature
    return difference, torch.softmax(logits, dim=-1)


def iterate(points: Tensor, masses: Tensor, centroids: Tensor, clustering: Clustering) -> list[Tensor]:
    """Run the centroid updates.

    Returns:
        The centroids before the first and after each iteration. Where `epsilon` stopped a device that must not wait
        for the host, the list is of full length and its last entries repeat.
    """
    history = [centroids]
    inertia: Tensor | None = None
    active: Tensor | None = None
    moments = torch.stack((masses, masses * points), dim=-2)
    for _ in range(clustering.iterations):
        difference, soft = attention(points, history[-1], clustering)
        sums = moments @ soft.clamp_min(clustering.attention_floor)
        # A centroid that no weight attends to stays where it is.
        attended = sums[..., 0, :] > _LEAST_SHARE * masses.sum(dim=-1, keepdim=True)
        updated = torch.where(attended, sums[..., 1, :] / sums[..., 0, :], history[-1])
        if clustering.fix_zero:
            updated[..., 0] = 0.0
        if active is not None:
            updated = torch.where(active, updated, history[-1])
        history.append(updated)
        if clustering.epsilon is not None:
            distance = (difference * difference).amin(dim=-1)
            present = (masses * distance).sum()
            if inertia is not None:
                going_on = (inertia - present).abs() > clustering.epsilon
                if points.device.type == "cpu":
                    if not going_on:
                        break
                else:
                    active = going_on if active is None else active & going_on
            inertia = present
    return history


def output(points: Tensor, before: Tensor, after: Tensor, clustering: Clustering) -> Tensor:
    """The palettized value f at each point, (G, M), from the centroids before and after the last iteration."""
    _, soft = attention(points, before, clustering)
    return (soft.clamp_min(clustering.attention_floor) @ after.unsqueeze(-1)).squeeze(-1)


def gradients(
    points: Tensor,
    masses: Tensor,
    output_gradient: Tensor,
    centroid_gradient: Tensor | None,
    history: list[Tensor],
    clustering: Clustering,
) -> PointGradients:
    """Derivatives of a loss whose gradient by the output is `output_gradient`, carried by the points as masses are.

    Args:
        points: Shape (G, M).
        masses: Shape (G, M).
        output_gradient: Shape (G, M): the weights' upstream gradients, deposited on the points.
        centroid_gradient: The loss's gradient by the last centroids, (G, K), or None.
        history: As `iterate` returned it.
        clustering: The same as in the forward pass.
    """
    floor = clustering.attention_floor
    after = history[-1]
    gradient = after.new_zeros(after.shape) if centroid_gradient is None else centroid_gradient
    output_slope = mass_slope = torch.zeros_like(points)
    for step in range(len(history) - 1, 0, -1):
        before, after = history[step - 1], history[step]
        difference, soft = attention(points, before, clustering)
        # Derivative of the logits by the point; by the centroid it is the same with the other sign.
        toward = difference.mul_(-2.0 / clustering.temperature)
        clamped = soft.clamp_min(floor)
        open_ = (soft >= floor) if floor else None
        towards_before = torch.zeros_like(before)
        if step == len(history) - 1:
            gradient = gradient + (output_gradient.unsqueeze(-2) @ clamped).squeeze(-2)
            reaction = _softmax_derivative(soft, open_, after.unsqueeze(-2).expand_as(soft)).mul_(toward)
            output_slope = reaction.sum(dim=-1)
            towards_before = -(output_gradient.unsqueeze(-2) @ reaction).squeeze(-2)
        if clustering.fix_zero:
            gradient = torch.cat((torch.zeros_like(gradient[..., :1]), gradient[..., 1:]), dim=-1)
        mass = (masses.unsqueeze(-2) @ clamped).squeeze(-2)
        attended = mass > _LEAST_SHARE * masses.sum(dim=-1, keepdim=True)
        share = torch.where(attended, gradient / mass, 0.0)
        kept = torch.where(attended, 0.0, gradient)
        lever = (points.unsqueeze(-1) - after.unsqueeze(-2)) * share.unsqueeze(-2)
        reaction = _softmax_derivative(soft, open_, lever).mul_(toward)
        mass_slope = mass_slope + reaction.sum(dim=-1) + (clamped @ share.unsqueeze(-1)).squeeze(-1)
        gradient = kept + towards_before - (masses.unsqueeze(-2) @ reaction).squeeze(-2)
    return PointGradients(output_slope, mass_slope, gradient)


def _softmax_derivative(soft: Tensor, open_: Tensor | None, upstream: Tensor) -> Tensor:
    """Gradient by the logits of max(softmax, floor); `open_` marks where the floor does not bind."""
    weighted = soft * upstream
    if open_ is not None:
        weighted = weighted.mul_(open_)
    return weighted.sub_(soft * weighted.sum(dim=-1, keepdim=True))
