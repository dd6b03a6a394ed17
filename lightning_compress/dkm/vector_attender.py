"""Attention of vectors to centroids, a part of them at a time: sums, values and derivatives.

With vectors x, centroids c and temperature tau, p = softmax_k(-|x - c_k|^2 / tau) is the attention, a = max(p, floor)
what is paid, and q = p where the floor does not bind and 0 where it does. If a loss changes by t_k as a_k does, it
changes by r_k = q_k t_k - p_k sum_j q_j t_j as the logit of k does, and sum_k r_k = 0. So the gradient by x is
-2 / tau sum_k r_k (x - c_k), and by c_k it is 2 / tau sum_x r_k (x - c_k).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_compress.dkm.clustering import Clustering

_BLOCK = {"cpu": 1 << 20}
"""Most elements of an attention matrix that is held at once."""

_USUAL_BLOCK = 1 << 24

_SUMMED = 64
"""Vectors summed up in single precision: a product of matrices adds in turn, and loses a digit over thousands."""


class _Paid(NamedTuple):
    """What vectors pay to centroids, (G, n, K)."""

    soft: Tensor
    """The softmax p."""

    free: Tensor
    """q: p where the floor does not bind, 0 elsewhere."""

    floored: Tensor
    """a: p, or the floor where that is more."""

    nearest: Tensor
    """Squared distance of each vector to its nearest centroid, (G, n)."""


class VectorAttender:
    """Computes the attention of vectors to one palette after another.

    Args:
        points: Shape (G, N, D).
        present: Which vectors take part, (G, N); all by default.
        clustering: What to do.
    """

    def __init__(self, points: Tensor, present: Tensor | None, clustering: Clustering) -> None:
        self._points = points
        self._present = None if present is None else present.to(points.dtype).unsqueeze(-1)
        self._clustering = clustering
        self._wide = torch.float32 if points.device.type == "mps" else torch.float64

    def sum_up(self, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of attention, (G, K), and of attention times vectors, (G, K, D); the inertia, (G,)."""
        sums = self._zeros(centroids, 1 + centroids.shape[-1])
        inertia = self._zeros(centroids[:, 0, 0])
        for block in vector_blocks(self._points, centroids):
            paid = self._pay(centroids, block)
            points = self._points[:, block]
            _add_products(sums, paid.floored, torch.cat((torch.ones_like(points[..., :1]), points), dim=-1))
            inertia += paid.nearest.sum(dim=-1)
        return sums[..., 0], sums[..., 1:], inertia

    def evaluate(self, before: Tensor, after: Tensor) -> Tensor:
        """Attention to the centroids before times those after, (G, N, D)."""
        output = torch.empty_like(self._points)
        after = after.to(output.dtype)
        for block in vector_blocks(self._points, before):
            output[:, block] = self._pay(before, block).floored @ after
        return output

    def output_gradients(
        self, carried: Tensor, before: Tensor, after: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Derivatives of a loss through the output.

        Args:
            carried: Its gradient by the output, (G, N, D).
            before: Centroids that the attention was paid to, (G, K, D).
            after: Centroids after the update.

        Returns:
            Its gradients by the centroids after and before, (G, K, D), and by the vectors, (G, N, D).
        """
        by_after, by_before = self._zeros(after), self._zeros(before)
        slope = torch.empty_like(self._points)
        values = after.to(slope.dtype).transpose(1, 2)
        for block in vector_blocks(self._points, before):
            paid, upstream = self._pay(before, block), carried[:, block]
            _add_products(by_after, paid.floored, upstream)
            part, slope[:, block] = self._react(paid, upstream @ values, before, block)
            by_before += part
        return by_after, by_before, slope

    def update_gradients(self, before: Tensor, after: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of a loss through an update.

        Args:
            before: Centroids before it, (G, K, D).
            after: Centroids after it.
            share: The loss's gradient by those, over the attention paid to each.

        Returns:
            The gradients by the centroids before, (G, K, D), and by the vectors, (G, N, D).
        """
        by_before = self._zeros(before)
        slope = torch.empty_like(self._points)
        own, held = share.to(slope.dtype), (share * after).sum(dim=-1).to(slope.dtype).unsqueeze(-2)
        for block in vector_blocks(self._points, before):
            paid = self._pay(before, block)
            levers = self._points[:, block] @ own.transpose(1, 2) - held
            part, moved = self._react(paid, levers, before, block)
            by_before += part
            slope[:, block] = moved + paid.floored @ own
        return by_before, slope

    def _react(self, paid: _Paid, levers: Tensor, before: Tensor, block: slice) -> tuple[Tensor, Tensor]:
        """Gradients by the centroids before, (G, K, D), and by the vectors, from those by what is attended, t."""
        factor = 2 / self._clustering.temperature
        freely = paid.free * levers
        pull = freely.sub_(paid.soft * freely.sum(dim=-1, keepdim=True))
        points, centroids = self._points[:, block], before.to(self._points.dtype)
        # All r of a vector sum up to zero, and so it does not matter from where places are counted: from the middle
        # of the palette least is lost.
        middle = centroids.mean(dim=1, keepdim=True)
        centred = torch.cat((torch.ones_like(points[..., :1]), points - middle), dim=-1)
        sums = _add_products(self._zeros(before, 1 + before.shape[-1]), pull, centred)
        by_before = sums[..., 1:] - sums[..., :1] * (centroids - middle)
        return by_before * factor, (pull @ (centroids - middle)) * factor

    def _zeros(self, like: Tensor, last: int | None = None) -> Tensor:
        shape = like.shape if last is None else (*like.shape[:-1], last)
        return torch.zeros(shape, dtype=self._wide, device=like.device)

    def _pay(self, centroids: Tensor, block: slice) -> _Paid:
        """The attention of a part of the vectors."""
        clustering, points = self._clustering, self._points[:, block]
        distance = squared_distances(points, centroids, clustering.zero_preference)
        nearest = distance.amin(dim=-1, keepdim=True)
        soft = torch.softmax(distance.sub_(nearest).mul_(-1 / clustering.temperature), dim=-1)
        if self._present is not None:
            soft.mul_(self._present[:, block])
        free = floored = soft
        floor = clustering.attention_floor
        if floor:
            free, floored = torch.threshold(soft, floor, 0.0), soft.clamp_min(floor)
            if self._present is not None:
                floored.mul_(self._present[:, block])
        if self._present is not None:
            nearest = nearest * self._present[:, block]
        return _Paid(soft, free, floored, nearest.squeeze(-1))


def squared_distances(points: Tensor, centroids: Tensor, zero_preference: float) -> Tensor:
    """Squared distances of vectors (G, n, D) to centroids (G, K, D): (G, n, K).

    From differences and not from a product of matrices, which would cancel, and be rounded more than distances bear
    where matrices are multiplied in TF32.
    """
    distance: Tensor | None = None
    centres = centroids.to(points.dtype).unsqueeze(1)
    for place, centre in zip(points.unsqueeze(-2).unbind(-1), centres.unbind(-1), strict=True):
        apart = place - centre
        distance = apart.square_() if distance is None else distance.addcmul_(apart, apart)
    assert distance is not None
    if zero_preference:
        distance[..., 0] -= zero_preference
    return distance


def vector_blocks(points: Tensor, centroids: Tensor) -> Iterator[slice]:
    """Parts of vectors (G, N, D) whose distances to centroids (G, K, D) are held at once."""
    groups, size, _ = points.shape
    most = _BLOCK.get(points.device.type, _USUAL_BLOCK)
    length = max(1, most // (groups * centroids.shape[1]))
    for start in range(0, size, length):
        yield slice(start, min(size, start + length))


def _add_products(sums: Tensor, paid: Tensor, carried: Tensor) -> Tensor:
    """Add sums over vectors of attention (G, n, K) times what they carry, (G, n, C), to sums (G, K, C)."""
    groups, size, clusters = paid.shape
    whole = size // _SUMMED * _SUMMED
    for begin, end, rows in ((0, whole, _SUMMED), (whole, size, size - whole)):
        if end > begin:
            left = paid[:, begin:end].reshape(groups, -1, rows, clusters)
            right = carried[:, begin:end].reshape(groups, -1, rows, carried.shape[-1])
            sums += (left.transpose(-1, -2) @ right).to(sums.dtype).sum(dim=1)
    return sums
