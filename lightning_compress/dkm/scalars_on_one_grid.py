"""Differentiable k-means of scalars of any number of weights on one grid, on devices that the host must not wait for.

Weights are one row of numbers, each of which knows its group, so that operations are as many whatever the number of
weights, but for the search for ranges and panels, which is made for one weight after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_compress.dkm import attention, passes
from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.device_layout import lay_out_together
from lightning_compress.dkm.grid import Grid
from lightning_compress.dkm.ranges import finite_range
from lightning_compress.dkm.scalars import LEAST_SHARES


class OnOneGrid(NamedTuple):
    """How weights of scalars are clustered together.

    Attributes:
        clustering: What to do with all of them.
        keep_zeros: Whether zeros take no part and stay zero.
        groups: The number of groups of each, with a palette each.
    """

    clustering: Clustering
    keep_zeros: bool
    groups: tuple[int, ...]


def serves(weight: Tensor, clustering: Clustering) -> bool:
    """Whether a weight of scalars is a case for a grid that is laid out without a look at its values."""
    return not clustering.may_wait(weight) and not clustering.exact and weight.dtype != torch.float64


def palettize_on_one_grid(
    weights: Sequence[Tensor], centroids: Tensor, how: OnOneGrid
) -> tuple[list[Tensor], Tensor]:
    """Cluster weights that the grid `serves`, all on one device, around as many centroids each.

    Args:
        weights: Of any shape.
        centroids: Their palettes, those of all groups one after another, (G, K); gradients by them are not computed.
        how: How they are clustered.

    Returns:
        The clustered weights, of their shapes and types, each differentiable if its weight is, and the new centroids,
        without gradients. Gradients may come to some of them at a time, any number of times.
    """
    *outputs, updated = _OnOneGrid.apply(how, centroids, *weights)
    return outputs, updated


class _OnOneGrid(torch.autograd.Function):
    """As in `scalars_at_once`, nothing is saved by autograd; what is kept does not change when weights do."""

    @staticmethod
    def forward(ctx: Any, how: OnOneGrid, centroids: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        clustering = how.clustering
        flat = torch.cat([weight.detach().reshape(-1) for weight in weights]).float()
        works = [
            work.view(groups, -1)
            for work, groups in zip(torch.split(flat, _sizes(weights)), how.groups, strict=True)
        ]
        palettes = centroids.detach().to(clustering.small(flat))
        rows = torch.arange(len(palettes), dtype=torch.int32, device=flat.device).repeat_interleave(
            _placed(tuple(work.shape[1] for work in works for _ in range(len(work))), flat.device),
            output_size=flat.numel(),
        )
        present = flat != 0 if how.keep_zeros else None
        ranges = [finite_range(work) for work in works]
        low, high = (torch.cat(bounds).to(palettes.dtype) for bounds in zip(*ranges, strict=True))
        grid = lay_out_together(flat, rows, low, high, palettes, present, clustering, tensors=len(works))
        bins, within = grid.find(works, flat, rows)
        ones = torch.ones_like(flat) if present is None else present
        masses = _deposit(grid, bins, within, ones)
        function, iterations = attention.cluster(
            grid.points, masses, palettes, clustering, least_share=LEAST_SHARES[masses.dtype]
        )
        (output,) = _look_up(grid, function.unsqueeze(0), bins, within)
        if present is not None:
            output.mul_(present)
        results = [
            part.to(weight.dtype).view_as(weight)
            for part, weight in zip(torch.split(output, _sizes(weights)), weights, strict=True)
        ]
        updated = iterations[-1].after.to(centroids.dtype)
        ctx.how, ctx.grid, ctx.masses, ctx.iterations = how, grid, masses, iterations
        ctx.bins, ctx.within, ctx.present = bins, within, present
        ctx.like = [weight.new_empty(()).expand_as(weight) for weight in weights]
        ctx.mark_non_differentiable(
            updated,
            *(result for result, needed in zip(results, ctx.needs_input_grad[2:], strict=True) if not needed),
        )
        return (*results, updated)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        grid: Grid = ctx.grid
        sizes = _sizes(ctx.like)
        given = [gradient is not None for gradient in gradients[: len(sizes)]]

        def chosen(values: Tensor) -> Tensor:
            """What belongs to weights that have a gradient."""
            if all(given):
                return values
            parts = zip(torch.split(values, sizes), given, strict=True)
            return torch.cat([part for part, has_gradient in parts if has_gradient])

        bins, within = chosen(ctx.bins), chosen(ctx.within)
        present = None if ctx.present is None else chosen(ctx.present)
        upstream = torch.cat([gradient.reshape(-1) for gradient in gradients if gradient is not None]).float()
        if present is not None:
            upstream.mul_(present)
        iterations = ctx.iterations
        result = attention.gradients(
            grid.points,
            ctx.masses,
            _deposit(grid, bins, within, upstream),
            torch.zeros_like(iterations[0].before),
            iterations,
            ctx.how.clustering,
        )
        functions = torch.stack((result.output_slope, result.mass_slope))
        factor, shift = _look_up(grid, functions, bins, within)
        slope = shift.addcmul_(factor, upstream)
        if present is not None:
            slope.mul_(present)
        parts = iter(
            torch.split(
                slope, [size for size, has_gradient in zip(sizes, given, strict=True) if has_gradient]
            )
        )
        by_weights = [
            next(parts).to(like.dtype).view_as(like) if has_gradient else None
            for like, has_gradient in zip(ctx.like, given, strict=True)
        ]
        return (None, None, *by_weights)


def _sizes(weights: Sequence[Tensor]) -> list[int]:
    return [weight.numel() for weight in weights]


@lru_cache(maxsize=64)
def _placed(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Numbers on a device; copying them there makes the host wait, so it is done once."""
    return torch.tensor(numbers, device=device)


def _deposit(grid: Grid, bins: Tensor, within: Tensor, values: Tensor) -> Tensor:
    """Values carried by weights, (N,), gathered on the points: (G, M)."""
    sums = grid.points.new_zeros((2, grid.groups * grid.size))
    carried = values.to(sums.dtype)
    sums[0].index_add_(0, bins, carried)
    sums[1].index_add_(0, bins, carried.mul_(within) if carried is not values else carried * within)
    return passes.gather(grid, *sums.view(2, grid.groups, grid.size))


def _look_up(grid: Grid, functions: Tensor, bins: Tensor, within: Tensor) -> list[Tensor]:
    """Functions known at the points, (F, G, M), at every weight: F of (N,)."""
    chords = passes.find_chords(grid, functions, within.dtype).flatten(2)
    return [
        torch.index_select(intercept, 0, bins).addcmul_(torch.index_select(slope, 0, bins), within)
        for intercept, slope in chords
    ]
