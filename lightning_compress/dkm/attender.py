"""Attention of points to one palette after another, with torch: what a centroid update and its derivatives sum up.

Everything but the softmax p itself is a product of p with thin matrices, in the derivatives too: with an upstream H_mj
that is linear in x_m, the gradient by the logits is r = q H - p (sum_j q H), where q is p where the floor does not
bind, and only sums of r over one of its two axes are wanted.

Shapes: points and masses (G, M) for G groups with a palette each, centroids (G, K). Attention is held as (G, K, M),
centroids first: they may be as few as two, and a softmax over so short a last axis is ten times slower.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_compress.dkm.clustering import Clustering

_BLOCK = 1 << 21
"""Most elements of an attention matrix that is held at once on a processor."""

_DEVICE_BLOCK = 1 << 23
"""Most of them elsewhere, where each operation has its price whatever its size."""

_NEGLIGIBLE = {torch.float64: 1e-200, torch.float32: 1e-30}
"""Attention below this is none: masses times it would no longer be a normal number."""


class _Attention(NamedTuple):
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
        clustering: What to do.
    """

    def __init__(self, points: Tensor, clustering: Clustering) -> None:
        self._clustering = clustering
        self._points = points
        # (x - c)^2 without x^2, which the softmax does not feel; around the middle of the range, where little is lost.
        self._middle = (points[:, :1] + points[:, -1:]) / 2
        self._scaled = (points - self._middle).mul_(2 / clustering.temperature).unsqueeze(-2)
        self._room: Tensor | None = None
        self._held: tuple[Tensor, slice, _Attention] | None = None

    def sum_up(self, masses: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of attention times masses and first moments, (G, K, 2), and sums of masses times nearness, (G, 1)."""
        moments = torch.stack((masses, masses * self._points), dim=-1)
        sums, nearness = [], []
        for block in self._blocks(centroids):
            attention = self._pay(centroids, block)
            sums.append(attention.floored @ moments[:, block])
            nearness.append((masses[:, block] * attention.nearness).sum(dim=-1, keepdim=True))
        return _total(sums), _total(nearness)

    def evaluate(self, before: Tensor, after: Tensor) -> Tensor:
        """Attention to the centroids before times those after, (G, M)."""
        output = torch.empty_like(self._points)
        for block in self._blocks(before):
            output[:, block] = _over_clusters(self._pay(before, block).floored, after)
        return output

    def output_gradients(
        self, upstream: Tensor, before: Tensor, after: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients through f by the centroids after and before, (G, K), and the slope of f, (G, M)."""
        factor = 2 / self._clustering.temperature
        thin = torch.stack((upstream, upstream * self._points), dim=-1)
        vectors = torch.stack((after, after * before), dim=-2)
        by_after: list[Tensor] = []
        by_before: list[Tensor] = []
        slope = torch.empty_like(self._points)
        for block in self._blocks(before):
            soft, free, floored, _ = self._pay(before, block)
            carried = thin[:, block]
            values, products = (vectors @ free).unbind(dim=-2)
            torch.addcmul(products, values, _over_clusters(soft, before), value=-1, out=slope[:, block])
            freely = free @ carried
            by_after.append(freely[..., 0] if floored is free else (floored @ carried[..., :1]).squeeze(-1))
            reaction = after.unsqueeze(-1) * freely - soft @ (carried * values.unsqueeze(-1))
            by_before.append(reaction[..., 1] - before * reaction[..., 0])
        return _total(by_after), _total(by_before) * factor, slope.mul_(factor)

    def update_gradients(
        self, masses: Tensor, before: Tensor, share: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients through an update by the centroids before it, (G, K), and by the place of a unit of mass.

        Args:
            masses: Shape (G, M).
            before: The centroids before the update.
            share: The gradient by those after it, over the mass attended to them.
            offset: `share` times the centroids after it.
        """
        factor = 2 / self._clustering.temperature
        first = masses * self._points
        moments = torch.stack((masses, first, first * self._points), dim=-1)
        vectors = torch.stack((share, offset, share * before, offset * before), dim=-2)
        by_before: list[Tensor] = []
        slope = torch.empty_like(self._points)
        for block in self._blocks(before):
            x = self._points[:, block]
            soft, free, floored, _ = self._pay(before, block)
            shares, offsets, share_products, offset_products = (vectors @ free).unbind(dim=-2)
            lever = x * shares - offsets
            steep = x * share_products - offset_products
            steep.addcmul_(lever, _over_clusters(soft, before), value=-1)
            held = shares if floored is free else _over_clusters(floored, share)
            torch.add(held, steep, alpha=factor, out=slope[:, block])
            freely = free @ moments[:, block]
            bound = soft @ (moments[:, block, :2] * lever.unsqueeze(-1))
            reaction = share.unsqueeze(-1) * freely[..., 1:] - offset.unsqueeze(-1) * freely[..., :2] - bound
            by_before.append(reaction[..., 1] - before * reaction[..., 0])
        return _total(by_before) * factor, slope

    def _blocks(self, centroids: Tensor) -> list[slice]:
        size = self._points.shape[-1]
        most = _BLOCK if self._points.device.type == "cpu" else _DEVICE_BLOCK
        block = min(size, max(1, most // centroids.numel()))
        if self._room is None:
            matrices = 3 if self._clustering.attention_floor else 1
            self._room = self._points.new_empty((matrices, centroids.numel() * block))
        return [slice(start, min(size, start + block)) for start in range(0, size, block)]

    def _pay(self, centroids: Tensor, block: slice) -> _Attention:
        """The attention of a block of points to centroids (G, K), valid until the next call."""
        if self._held is not None and self._held[0] is centroids and self._held[1] == block:
            return self._held[2]
        assert self._room is not None
        temperature, floor = self._clustering.temperature, self._clustering.attention_floor
        shape = (*centroids.shape, block.stop - block.start)
        room = [part[: math.prod(shape)].view(shape) for part in self._room]
        soft = room[0]
        if soft.dtype == torch.float64:
            moved = centroids - self._middle
            bias = moved.square().mul_(-1 / temperature)
            if self._clustering.zero_preference:
                bias[..., 0] += self._clustering.zero_preference / temperature
            torch.addcmul(bias.unsqueeze(-1), moved.unsqueeze(-1), self._scaled[..., block], out=soft)
        else:
            # Products of large numbers lose more to single precision than differences squared.
            torch.sub(self._points[:, None, block], centroids.unsqueeze(-1), out=soft)
            soft.square_().mul_(-1 / temperature)
            if self._clustering.zero_preference:
                soft[..., 0, :] += self._clustering.zero_preference / temperature
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
        attention = _Attention(soft, free, floored, nearness.squeeze(-2))
        self._held = (centroids, block, attention)
        return attention


def _total(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0)


def _over_clusters(matrix: Tensor, vector: Tensor) -> Tensor:
    """Sum over centroids of attention times a vector, (G, K): (G, M)."""
    return (vector.unsqueeze(-2) @ matrix).squeeze(-2)
