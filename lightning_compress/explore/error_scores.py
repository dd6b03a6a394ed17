"""How far errors of a tensor are expected to move the outputs, all of them together.

To first order outputs move by J e, J being their derivatives and e the errors, and the square of that is the mean of
(g'e)^2 over random projections of the outputs with gradients g (`lightning_compress.explore.projection`). Unlike the
sum of squared gradients times squared errors, it knows that the errors of neighbouring weights add up or cancel each
other: a palette of two values shrinks all that a channel returns, and inputs behind a ReLU have one sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_compress.explore.projection import OutputProjection
from lightning_compress.methods.importance import example_gradients
from lightning_compress.methods.mechanism.agreement import Call
from lightning_compress.methods.mechanism.tensors import TensorReference


def error_scores(
    references: Sequence[TensorReference],
    projection: OutputProjection,
    errors: Mapping[str, Sequence[Tensor]],
    calls: Sequence[Call],
) -> dict[str, list[float]]:
    """The expected square of how far the outputs move.

    Args:
        references: The tensors, of the network of the projection.
        projection: Of its outputs.
        errors: By name of the tensor, several errors of it, each of its shape, and each of which is scored.
        calls: Single examples; each is one projection, so that the score of n of them is known within a share of
            about sqrt(2 / n).

    Returns:
        By name of the tensor, the score of each error.
    """
    sums = {name: torch.zeros(len(found), dtype=torch.float64) for name, found in errors.items()}
    for call in calls:
        for name, gradient in example_gradients(references, projection, call):
            if name in sums:
                flat = gradient.flatten()
                # One by one: in a product of matrices the last bits of one would depend on how many others there are.
                moved = torch.stack([torch.dot(error.flatten(), flat) for error in errors[name]])
                sums[name] += moved.double().square()
    return {name: (total / len(calls)).tolist() for name, total in sums.items()}
