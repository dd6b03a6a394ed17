"""Differentiable k-means of scalars on a grid of their range: the pass through it and its derivatives."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_compress.dkm import attention, device_layout, passes
from lightning_compress.dkm.attention import Iteration
from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.grid import Grid
from lightning_compress.dkm.panels import lay_out, resolves
from lightning_compress.dkm.ranges import finite_range


class _Clustered(NamedTuple):
    """Weights clustered on a grid, or one by one."""

    grid: Grid | None
    places: Tensor | None
    masses: Tensor
    function: Tensor
    iterations: list[Iteration]


def _cluster(work: Tensor, palette: Tensor, present: Tensor | None, clustering: Clustering) -> _Clustered:
    """Cluster weights (G, N) around palettes (G, K), on a grid unless they are in double precision."""
    low, high = finite_range(work)
    if work.dtype == torch.float64 or clustering.exact:
        return _cluster_exactly(work, palette, present, clustering)
    low, high = low.to(palette.dtype), high.to(palette.dtype)
    if not clustering.may_wait(work):
        grid = device_layout.lay_out(work, low, high, palette, present, clustering)
        if grid is None:
            return _cluster_exactly(work, palette, present, clustering)
        return _cluster_on(grid, work, palette, present, clustering)
    palettes = [palette]
    for _ in range(_MOST_LAYOUTS):
        layout = lay_out(work, low, high, palettes, clustering)
        if layout is None:
            break
        result = _cluster_on(layout.grid, work, palette, present, clustering)
        palettes = [iteration.before for iteration in result.iterations]
        if resolves(layout, low, high, palettes, clustering.temperature):
            return result
    return _cluster_exactly(work, palette, present, clustering)


def _cluster_on(
    grid: Grid, work: Tensor, palette: Tensor, present: Tensor | None, clustering: Clustering
) -> _Clustered:
    places = grid.locate(work)
    absent = None if present is None else (~present).sum(dim=-1).to(palette.dtype)
    masses = passes.masses(grid, places, absent)
    least = LEAST_SHARES[masses.dtype]
    function, iterations = attention.cluster(grid.points, masses, palette, clustering, least_share=least)
    return _Clustered(grid, places, masses, function, iterations)


def _cluster_exactly(
    work: Tensor, palette: Tensor, present: Tensor | None, clustering: Clustering
) -> _Clustered:
    points = work.to(palette.dtype)
    masses = torch.ones_like(points) if present is None else present.to(points.dtype)
    function, iterations = attention.cluster(points, masses, palette, clustering, least_share=0.0)
    return _Clustered(None, None, masses, function, iterations)


class PalettizeScalars(torch.autograd.Function):
    """Clustered weights and new centroids, differentiable by weights and centroids."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, centroids: Tensor, groups: int, clustering: Clustering, keep_zeros: bool
    ) -> tuple[Tensor, Tensor]:
        """Cluster a weight in `groups` equal parts around centroids (G, K, 1)."""
        work = weight.detach().reshape(groups, -1)
        work = work if work.dtype == torch.float64 else work.float()
        palette = centroids.detach().reshape(groups, -1).to(clustering.small(work))
        present = work != 0 if keep_zeros else None
        grid, places, masses, function, iterations = _cluster(work, palette, present, clustering)
        if grid is None or places is None:
            palettized = function
            # Without a grid every mass is one; that need not be held until backward.
            masses = masses.new_empty(0)
        else:
            palettized = passes.interpolate(grid, function, places)
            # Equal panels find places again for free.
            places = None if grid.uniform_panels else places
        if present is not None:
            palettized = palettized.mul_(present)
        ctx.clustering, ctx.groups, ctx.keep_zeros, ctx.grid = clustering, groups, keep_zeros, grid
        ctx.save_for_backward(
            weight, centroids, places, masses, *(tensor for step in iterations for tensor in step)
        )
        updated = iterations[-1].after.to(centroids.dtype).view_as(centroids)
        return palettized.to(weight.dtype).view_as(weight), updated

    @staticmethod
    def backward(
        ctx: Any, output_gradient: Tensor, centroid_gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """Gradients by weight and centroids, from the points of the grid back to every weight."""
        weight, centroids, places, masses, *saved = ctx.saved_tensors
        iterations = [Iteration(*saved[start : start + 4]) for start in range(0, len(saved), 4)]
        grid: Grid | None = ctx.grid
        small = masses.dtype
        work = weight.reshape(ctx.groups, -1)
        upstream = output_gradient.reshape(ctx.groups, -1)
        present = work != 0 if ctx.keep_zeros else None
        if present is not None:
            upstream = upstream * present
        by_centroids = centroid_gradient.reshape(ctx.groups, -1).to(small)
        if grid is None:
            points, upstream = work.to(small), upstream.to(small)
            masses = torch.ones_like(points) if present is None else present.to(small)
            result = attention.gradients(points, masses, upstream, by_centroids, iterations, ctx.clustering)
            slope = result.output_slope * upstream + result.mass_slope
        else:
            upstream = upstream.float()
            places = work.float() if places is None else places
            deposited = passes.deposit(grid, places, upstream)
            result = attention.gradients(
                grid.points, masses, deposited, by_centroids, iterations, ctx.clustering
            )
            slope = passes.chain(grid, result.output_slope, result.mass_slope, places, upstream)
        if present is not None:
            slope.mul_(present)
        by_weight = slope.to(weight.dtype).view_as(weight)
        return by_weight, result.centroids.to(centroids.dtype).view_as(centroids), None, None, None


_MOST_LAYOUTS = 4
"""Layouts of panels tried for palettes that move away from those they were laid out for."""

LEAST_SHARES = {torch.float64: 1e-14, torch.float32: 1e-9}
"""Share of a group's mass that may be what rounding leaves where there is none."""
