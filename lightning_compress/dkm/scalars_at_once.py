"""Differentiable k-means of scalars in one call into C, forward and backward, for any number of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_compress.dkm import native
from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.native.scalars import ClusteredScalars, Scalars, ScalarWeight
from lightning_compress.dkm.vector_iterations import precise


def serves(weight: Tensor, clustering: Clustering) -> bool:
    """Whether a weight of scalars is a case for C."""
    return clustering.in_c and not clustering.exact and native.serves_scalars(weight)


def palettize_at_once(
    weights: Sequence[Tensor], centroids: Tensor, scalars: Sequence[Scalars]
) -> tuple[list[Tensor], Tensor]:
    """Cluster weights that C `serves`, all in one call.

    Args:
        weights: Of any shape.
        centroids: Their palettes, (G, K) of each one after another, float64.
        scalars: How each is clustered.

    Returns:
        The clustered weights, of their shapes and types, each differentiable if its weight or the palettes are, and the
        new centroids, as the old ones. Gradients may come to some of them at a time, any number of times.

    Raises:
        WeightError: If a weight holds NaN or infinity.
    """
    *outputs, updated = _Clustered.apply(tuple(scalars), centroids, *weights)
    return outputs, updated


class _Clustered(torch.autograd.Function):
    """What was clustered, and its derivatives.

    Nothing is saved by autograd, which would free it after the first backward pass, and count it where passes are made
    again for gradient checkpoints: whichever weight is asked for first is clustered with all others.
    """

    @staticmethod
    def forward(
        ctx: Any, scalars: tuple[Scalars, ...], centroids: Tensor, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.scalars = scalars
        ctx.weights = [weight.detach() for weight in weights]
        ctx.versions = [_version(weight) for weight in ctx.weights]
        ctx.clustered = ClusteredScalars(
            [
                ScalarWeight(precise(weight).view(each.groups, -1), each)
                for weight, each in zip(weights, scalars, strict=True)
            ],
            centroids.detach(),
        )
        clustered, updated = ctx.clustered.take()
        outputs = [
            output.to(weight.dtype).view_as(weight) for output, weight in zip(clustered, weights, strict=True)
        ]
        if not ctx.needs_input_grad[1]:
            ctx.mark_non_differentiable(
                *(
                    output
                    for output, needed in zip(outputs, ctx.needs_input_grad[2:], strict=True)
                    if not needed
                )
            )
        return (*outputs, updated)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *upstream, by_updated = gradients
        prepared: list[Tensor | None] = []
        for gradient, weight, version, each in zip(
            upstream, ctx.weights, ctx.versions, ctx.scalars, strict=True
        ):
            if gradient is None and by_updated is None:
                prepared.append(None)
                continue
            if _version(weight) != version:
                raise RuntimeError(
                    f"{each.name} was modified in place after it was clustered: it is at version {weight._version}, "
                    f"and its gradient needs version {version}; take gradients first"
                )
            gradient = torch.zeros_like(weight) if gradient is None else gradient
            prepared.append(precise(gradient).view(each.groups, -1))
        by_weights, by_centroids = ctx.clustered.differentiate(prepared, by_updated)
        results = [
            None if result is None else result.to(weight.dtype).view_as(weight)
            for result, weight in zip(by_weights, ctx.weights, strict=True)
        ]
        return (None, by_centroids if ctx.needs_input_grad[1] else None, *results)


def _version(weight: Tensor) -> int:
    # Nothing that was made in inference mode has a version, or a backward pass.
    return 0 if weight.is_inference() else weight._version
