"""The modes of coremltools whose attention is no softmax over all centroids: the matrix, a part of it at a time.

Derivatives are computed by autograd from attention that is evaluated again, so that memory stays that of one part.

The mode "topk" pays attention to the two nearest centroids of each vector, as its name says; coremltools 9.0 indexes
the columns of the whole matrix there and gives every row the same attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_compress.dkm.clustering import Clustering

_BLOCK = 1 << 21
"""Most elements of an attention matrix that is held at once."""


def cluster_exactly(
    points: Tensor, centroids: Tensor, present: Tensor | None, clustering: Clustering
) -> tuple[Tensor, Tensor]:
    """Cluster vectors softly, differentiably by both.

    Args:
        points: Shape (G, N, D).
        centroids: Shape (G, K, D).
        present: Which points take part, (G, N); the others become zero. By default all.
        clustering: What to do.

    Returns:
        Clustered points, (G, N, D), and new centroids, (G, K, D).
    """
    outputs, updates = [], []
    for group in range(points.shape[0]):
        part = None if present is None else present[group].to(points.dtype)
        output, updated = _cluster_group(points[group], centroids[group], part, clustering)
        outputs.append(output)
        updates.append(updated)
    return torch.stack(outputs), torch.stack(updates)


def _cluster_group(
    points: Tensor, centroids: Tensor, present: Tensor | None, clustering: Clustering
) -> tuple[Tensor, Tensor]:
    after, previous = centroids, None
    for position in range(clustering.iterations):
        before = after
        attention = _Attention(clustering, present, points.device)
        sums, inertia = _Sums.apply(points, before, attention)
        attended = sums[:, :1]
        # A centroid that nothing attends to stays where it is.
        after = torch.where(attended > 0, sums[:, 1:] / torch.where(attended > 0, attended, 1.0), before)
        if clustering.fix_zero:
            after = torch.cat((torch.zeros_like(after[:1]), after[1:]))
        if clustering.epsilon is not None and position + 1 < clustering.iterations:
            current = float(inertia)
            if previous and abs(previous - current) <= clustering.epsilon:
                break
            previous = current
    output: Tensor = _Output.apply(points, before, after, attention)
    return output, after


class _Attention:
    """Attention of points to centroids in one iteration, the same whenever it is evaluated again."""

    def __init__(self, clustering: Clustering, present: Tensor | None, device: torch.device) -> None:
        self._clustering = clustering
        self._present = present
        self._noise = _random_state(device) if clustering.mode == "gsm" else None

    def blocks(self, points: Tensor, centroids: Tensor) -> Iterator[tuple[slice, torch.Generator | None]]:
        """Parts of the points, in order, each with where its noise comes from."""
        generator = None
        if self._noise is not None:
            generator = torch.Generator(points.device)
            generator.set_state(self._noise)
        size = max(1, _BLOCK // centroids.shape[0])
        for start in range(0, points.shape[0], size):
            yield slice(start, min(points.shape[0], start + size)), generator

    def pay(
        self, points: Tensor, centroids: Tensor, block: slice, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Attention of a part of the points, (n, K), and their squared distances to the nearest centroid."""
        clustering = self._clustering
        middle = points.detach().mean(dim=0)
        moved, centres = points - middle, centroids - middle
        distance = moved.square().sum(dim=-1, keepdim=True) + centres.square().sum(dim=-1)
        distance = torch.addmm(distance, moved, centres.T, alpha=-2)
        if clustering.zero_preference:
            distance = torch.cat((distance[:, :1] - clustering.zero_preference, distance[:, 1:]), dim=-1)
        logits = -distance / clustering.temperature
        if clustering.mode == "topk":
            values, indices = logits.topk(min(2, logits.shape[-1]), dim=-1)
            attention = torch.zeros_like(logits).scatter(-1, indices, torch.softmax(values, dim=-1))
        elif clustering.mode == "hard":
            attention = F.one_hot(distance.argmin(dim=-1), distance.shape[-1]).to(distance.dtype)
        else:
            noise = torch.empty_like(logits).exponential_(generator=generator).log()
            attention = torch.softmax(logits - noise, dim=-1)
        if self._present is not None:
            attention = attention * self._present[block].unsqueeze(-1)
        return attention, distance.detach().amin(dim=-1)

    def advance_random_state(self, generator: torch.Generator | None) -> None:
        """Let the next iteration draw other noise."""
        if generator is not None:
            _set_random_state(generator)


class _Sums(torch.autograd.Function):
    """Sums of attention, and of attention times points: (K, 1 + D); and the inertia."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, centroids: Tensor, attention: _Attention) -> tuple[Tensor, Tensor]:
        ctx.attention = attention
        ctx.save_for_backward(points, centroids)
        sums = points.new_zeros((centroids.shape[0], 1 + centroids.shape[1]))
        inertia = points.new_zeros(())
        generator = None
        for block, generator in attention.blocks(points, centroids):
            paid, nearest = attention.pay(points[block], centroids, block, generator)
            sums += _moments(paid, points[block])
            inertia += nearest.sum()
        attention.advance_random_state(generator)
        ctx.mark_non_differentiable(inertia)
        return sums, inertia

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        points, centroids = ctx.saved_tensors
        by_points, by_centroids = torch.empty_like(points), torch.zeros_like(centroids)
        for block, generator in ctx.attention.blocks(points, centroids):
            with torch.enable_grad():
                inputs = _leaves(points[block], centroids)
                paid, _ = ctx.attention.pay(*inputs, block, generator)
                result = _moments(paid, inputs[0])
            by_points[block], part = _gradients(result, inputs, upstream)
            by_centroids += part
        return by_points, by_centroids, None


class _Output(torch.autograd.Function):
    """Attention to the centroids before, times those after."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, before: Tensor, after: Tensor, attention: _Attention) -> Tensor:
        ctx.attention = attention
        ctx.save_for_backward(points, before, after)
        output = torch.empty_like(points)
        for block, generator in attention.blocks(points, before):
            output[block] = attention.pay(points[block], before, block, generator)[0] @ after
        return output

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        points, before, after = ctx.saved_tensors
        by_points = torch.empty_like(points)
        by_before, by_after = torch.zeros_like(before), torch.zeros_like(after)
        for block, generator in ctx.attention.blocks(points, before):
            with torch.enable_grad():
                inputs = _leaves(points[block], before, after)
                paid, _ = ctx.attention.pay(*inputs[:2], block, generator)
                result = paid @ inputs[2]
            by_points[block], first, second = _gradients(result, inputs, upstream[block])
            by_before += first
            by_after += second
        return by_points, by_before, by_after, None


def _moments(attention: Tensor, points: Tensor) -> Tensor:
    return torch.cat((attention.sum(dim=0).unsqueeze(-1), attention.T @ points), dim=-1)


def _leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().requires_grad_() for tensor in tensors]


def _gradients(result: Tensor, inputs: Sequence[Tensor], upstream: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(result, inputs, upstream, allow_unused=True)
    return [
        torch.zeros_like(given) if gradient is None else gradient
        for gradient, given in zip(found, inputs, strict=True)
    ]


def _random_state(device: torch.device) -> Tensor:
    if device.type == "cpu":
        return torch.get_rng_state()
    state: Tensor = getattr(torch, device.type).get_rng_state(device)
    return state


def _set_random_state(generator: torch.Generator) -> None:
    if generator.device.type == "cpu":
        torch.set_rng_state(generator.get_state())
    else:
        getattr(torch, generator.device.type).set_rng_state(generator.get_state(), generator.device)
