"""Attention of points to one palette after another, in C: as `dkm.attender`, which see."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.native.library import call, parts_for, threads

_LEAST_PART = 1 << 13
"""Elements of an attention matrix worth a thread."""

_SUM_UP, _EVALUATE, _OUTPUT_GRADIENTS, _UPDATE_GRADIENTS = range(4)


class NativeAttender:
    """As `dkm.attender.Attender`, for points in double precision on a processor.

    Args:
        points: Shape (G, M).
        clustering: What to do.
    """

    def __init__(self, points: Tensor, clustering: Clustering) -> None:
        self._points = points.contiguous()
        self._clustering = clustering

    def sum_up(self, masses: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of attention times masses and first moments, (G, K, 2), and sums of masses times nearness, (G, 1)."""
        sums, nearness, _ = self._attend(_SUM_UP, masses, centroids)
        return sums, nearness.unsqueeze(-1)

    def evaluate(self, before: Tensor, after: Tensor) -> Tensor:
        """Attention to the centroids before times those after, (G, M)."""
        return self._attend(_EVALUATE, None, before, after)[2]

    def output_gradients(
        self, upstream: Tensor, before: Tensor, after: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients through f by the centroids after and before, (G, K), and the slope of f, (G, M)."""
        sums, _, slope = self._attend(_OUTPUT_GRADIENTS, upstream, before, after)
        return sums[..., 0], sums[..., 1], slope

    def update_gradients(
        self, masses: Tensor, before: Tensor, share: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients through an update by the centroids before it, (G, K), and by the place of a unit of mass."""
        sums, _, slope = self._attend(_UPDATE_GRADIENTS, masses, before, share, offset)
        return sums[..., 0], slope

    def _attend(
        self, kind: int, carried: Tensor | None, centroids: Tensor, *palettes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over points, (G, K, 2) and (G,), and results at the points, as far as a kind of pass has them."""
        groups, size = self._points.shape
        parts = parts_for(size * centroids.numel(), _LEAST_PART)
        sums = torch.empty((parts, *centroids.shape, 2), dtype=torch.float64)
        total = torch.empty((parts, groups), dtype=torch.float64)
        on_points = torch.empty_like(self._points)
        first, second = [*(palette.contiguous() for palette in palettes), None, None][:2]
        options = self._clustering
        call(
            "attend_points",
            threads(),
            parts,
            kind,
            self._points,
            None if carried is None else carried.contiguous(),
            groups,
            size,
            centroids.contiguous(),
            first,
            second,
            centroids.shape[-1],
            options.temperature,
            options.attention_floor,
            options.zero_preference,
            sums,
            total,
            on_points,
        )
        return sums[0], total[0], on_points
