"""Attention of points to one palette after another, in C: as `dkm.attender`, which see."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.native import load, pointer, whole


class NativeAttender:
    """As `dkm.attender.Attender`, for points in double precision on a processor.

    Args:
        points: Shape (G, M).
        clustering: What to do.

    Raises:
        MemoryError: Where the attention of a few points finds no room.
    """

    def __init__(self, points: Tensor, clustering: Clustering) -> None:
        self._points = points.contiguous()
        self._shape = whole(points.shape[0]), whole(points.shape[1])
        self._options = (
            ctypes.c_double(clustering.temperature),
            ctypes.c_double(clustering.attention_floor),
            ctypes.c_double(clustering.zero_preference),
        )

    def sum_up(self, masses: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of attention times masses and first moments, (G, K, 2), and the sum of masses times nearness."""
        sums, nearness = self._points.new_empty((*centroids.shape, 2)), self._points.new_empty(len(centroids))
        self._call("sum_up", [masses], [centroids], [sums, nearness])
        return sums, nearness.sum()

    def evaluate(self, before: Tensor, after: Tensor) -> Tensor:
        """Attention to the centroids before times those after, (G, M)."""
        output = torch.empty_like(self._points)
        self._call("evaluate", [], [before, after], [output])
        return output

    def output_gradients(
        self, upstream: Tensor, before: Tensor, after: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients through f by the centroids after and before, (G, K), and the slope of f, (G, M)."""
        by_after, by_before, slope = (torch.empty_like(each) for each in (after, before, self._points))
        self._call("output_gradients", [upstream], [before, after], [by_after, by_before, slope])
        return by_after, by_before, slope

    def update_gradients(
        self, masses: Tensor, before: Tensor, share: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients through an update by the centroids before it, (G, K), and by the place of a unit of mass."""
        by_before, slope = torch.empty_like(before), torch.empty_like(self._points)
        self._call("update_gradients", [masses], [before, share, offset], [by_before, slope])
        return by_before, slope

    def _call(self, name: str, carried: list[Tensor], palettes: list[Tensor], results: list[Tensor]) -> None:
        inputs = [tensor.contiguous() for tensor in (*carried, *palettes)]
        places = [pointer(tensor) for tensor in inputs]
        failed = getattr(load(), name)(
            pointer(self._points),
            *places[: len(carried)],
            *self._shape,
            *places[len(carried) :],
            whole(palettes[0].shape[-1]),
            *self._options,
            *(pointer(result) for result in results),
        )
        if failed:
            raise MemoryError(f"no room for the attention to {palettes[0].shape[-1]} centroids")
