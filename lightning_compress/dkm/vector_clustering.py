"""Differentiable k-means of vectors with torch: the iterations and their exact derivatives, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.vector_attender import VectorAttender
from lightning_compress.dkm.vector_iterations import VectorIterations, VectorLayout

_WIDE = 25
"""Temperatures in the variance of a weight that is wide."""


def cluster(
    weight: Tensor, layout: VectorLayout, palettes: Tensor, clustering: Clustering, *, skip_zeros: bool
) -> tuple[Tensor, VectorIterations]:
    """Run the centroid updates.

    Args:
        weight: Contiguous, in single or double precision.
        layout: How its vectors lie in it.
        palettes: Shape (G, K, D).
        clustering: What to do.
        skip_zeros: Vectors that are zero throughout take no part and stay zero.

    Returns:
        The weight clustered softly, of its shape, and what `differentiate` needs.
    """
    points = _precise_points(weight, layout, clustering)
    attender = VectorAttender(points, _present(points, skip_zeros), clustering)
    on_host = weight.device.type == "cpu"
    trace = [palettes.to(_wide(weight))]
    attended: list[Tensor] = []
    active = torch.ones(layout.groups, dtype=torch.bool, device=weight.device)
    done = torch.zeros(layout.groups, dtype=torch.int64, device=weight.device)
    previous: Tensor | None = None
    for position in range(clustering.iterations):
        before = trace[-1]
        if on_host and not bool(active.any()):
            trace.append(before)
            attended.append(torch.zeros_like(attended[-1]))
            continue
        sums, moments, inertia = attender.sum_up(before)
        # A centroid that nothing attends to stays where it is.
        paid = (sums > 0).unsqueeze(-1)
        after = torch.where(paid, moments / torch.where(paid, sums.unsqueeze(-1), 1.0), before)
        if clustering.fix_zero:
            after[:, 0] = 0.0
        trace.append(torch.where(active[:, None, None], after, before))
        attended.append(sums * active.unsqueeze(-1))
        done += active
        if clustering.epsilon is not None and position + 1 < clustering.iterations:
            if previous is not None:
                active = active & (((previous - inertia).abs() > clustering.epsilon) | (previous == 0))
            previous = inertia
    iterations = VectorIterations(torch.stack(trace), torch.stack(attended), done)
    output = attender.evaluate(_before_last(iterations), trace[-1])
    return from_points(output, layout).view_as(weight).to(weight.dtype), iterations


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
    """Derivatives of a loss by the weight and by the first palettes.

    Args:
        weight: As in the forward pass.
        layout: The same.
        upstream: The loss's gradient by the clustered weight, of its shape and contiguous.
        by_last: The loss's gradient by the last palettes, (G, K, D).
        iterations: As `cluster` returned them.
        clustering: The same.
        skip_zeros: The same.
    """
    points = _precise_points(weight, layout, clustering)
    attender = VectorAttender(points, _present(points, skip_zeros), clustering)
    trace, attended, done, *_ = iterations
    by_after, through_output, slope = attender.output_gradients(
        to_points(upstream, layout).to(points.dtype), _before_last(iterations), trace[-1]
    )
    gradient = by_last.to(by_after) + by_after
    on_host = weight.device.type == "cpu"
    for position in range(len(attended) - 1, -1, -1):
        active = done > position
        if on_host and not bool(active.any()):
            continue
        before, after = trace[position], trace[position + 1]
        moving = gradient
        if clustering.fix_zero:
            moving = torch.cat((torch.zeros_like(gradient[:, :1]), gradient[:, 1:]), dim=1)
        paid = (attended[position] > 0).unsqueeze(-1)
        share = torch.where(paid, moving / torch.where(paid, attended[position].unsqueeze(-1), 1.0), 0.0)
        by_before, moved = attender.update_gradients(before, after, share)
        is_last = (done == position + 1)[:, None, None]
        earlier = by_before + torch.where(paid, 0.0, moving) + through_output * is_last
        gradient = torch.where(active[:, None, None], earlier, gradient)
        slope += moved * active[:, None, None]
    present = _present(points, skip_zeros)
    if present is not None:
        slope *= present.unsqueeze(-1)
    return from_points(slope, layout).view_as(weight).to(weight.dtype), gradient


def to_points(weight: Tensor, layout: VectorLayout) -> Tensor:
    """The vectors of a contiguous weight, (G, N, D)."""
    return weight.view(layout).transpose(2, 3).reshape(layout.groups, -1, layout.dimensions)


def from_points(points: Tensor, layout: VectorLayout) -> Tensor:
    """The inverse of `to_points`, contiguous, (G, chunks, D, row)."""
    groups, chunks, dimensions, row = layout
    return points.reshape(groups, chunks, row, dimensions).transpose(2, 3).contiguous()


def _precise_points(weight: Tensor, layout: VectorLayout, clustering: Clustering) -> Tensor:
    """The vectors of a weight, in double precision where single tells distances no better than a switch is wide.

    As passes in C, which do so vector by vector. Where the host may not wait for values, single precision has to do.
    """
    points = to_points(weight, layout)
    if not clustering.may_wait(weight) or not points.numel():
        return points
    spread = float(weight.std(correction=0))
    return points.double() if spread**2 > _WIDE * clustering.temperature else points


def _present(points: Tensor, skip_zeros: bool) -> Tensor | None:
    return (points != 0).any(dim=-1) if skip_zeros else None


def _before_last(iterations: VectorIterations) -> Tensor:
    """The palettes before the last update of each group, (G, K, D)."""
    groups = torch.arange(iterations.trace.shape[1], device=iterations.trace.device)
    return iterations.trace[iterations.done - 1, groups]


def _wide(weight: Tensor) -> torch.dtype:
    return torch.float32 if weight.device.type == "mps" else torch.float64
