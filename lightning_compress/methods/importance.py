"""How much each weight matters to the loss: the mean of its squared gradients over single examples.

By the second-order expansion of the loss around trained weights, whose gradient is small, a change `d` of the weights
raises the loss by about `d' H d / 2`, and the diagonal of the Fisher information, the mean of squared gradients,
stands for that of the Hessian H (LeCun et al., Optimal Brain Damage, 1990; Theis et al., arXiv 1801.05787). Gradients
of single examples, because those of a batch cancel each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_compress.errors import CompressionError, WeightError
from lightning_compress.methods.mechanism.tensors import TensorReference


def squared_gradients(
    references: Sequence[TensorReference],
    loss: Callable[[Any], Tensor],
    examples: Iterable[Any],
) -> dict[str, Tensor]:
    """The importance of every element of some tensors.

    Args:
        references: The tensors, of a module in full precision.
        loss: The loss of one example, differentiable by the tensors.
        examples: What `loss` is called with, one at a time.

    Returns:
        By name of the tensor, the mean of its squared gradients, of its shape; zeros where the loss does not depend on
        it.

    Raises:
        CompressionError: There are no examples, or the loss depends on none of the tensors.
        WeightError: A gradient is NaN or infinite.

    Example:
        >>> loss = lambda pair: F.cross_entropy(net(pair[0]), pair[1])
        >>> importance = squared_gradients(find_tensors(net), loss, pairs)
    """
    sums: dict[str, Tensor] = {}
    count = 0
    for example in examples:
        for name, gradient in example_gradients(references, loss, example):
            if name in sums:
                sums[name].addcmul_(gradient, gradient)
            else:
                sums[name] = gradient.square()
        count += 1
    if not count:
        raise CompressionError("there are no examples to take gradients of: the data are empty")
    if not sums:
        raise CompressionError(
            "the loss depends on none of the weights: their gradients are switched off (requires_grad), or the step "
            "returns a loss that was detached"
        )
    importance = {}
    for reference in references:
        mean = sums[reference.name] / count if reference.name in sums else torch.zeros(reference.shape)
        if not bool(torch.isfinite(mean).all()):
            raise WeightError(
                f"gradients of {reference.name!r} are NaN or infinite; check the loss on single examples of the data"
            )
        importance[reference.name] = mean
    return importance


def example_gradients(
    references: Sequence[TensorReference], loss: Callable[[Any], Tensor], example: Any
) -> Iterator[tuple[str, Tensor]]:
    """The gradients of the loss of one example by some tensors.

    Args:
        references: The tensors, of a module in full precision.
        loss: The loss of one example, differentiable by the tensors.
        example: What `loss` is called with.

    Yields:
        Name and gradient of each tensor that the loss depends on.
    """
    # Cached: where other parametrizations compute a weight, everybody reads the one tensor that holds its gradient.
    with torch.enable_grad(), parametrize.cached(), _requiring_gradients(references):
        values = [reference.value() for reference in references]
        value = loss(example)
        if not value.requires_grad:
            return
        gradients = _backward(value, references, values)
    for reference, gradient in zip(references, gradients, strict=True):
        if gradient is not None:
            yield reference.name, gradient.detach()


def _backward(
    loss: Tensor, references: Sequence[TensorReference], values: Sequence[Tensor]
) -> list[Tensor | None]:
    """As `torch.autograd.grad`, which reentrant activation checkpointing refuses."""
    _, root = references[0].enclosing[-1]
    kept = [(parameter, parameter.grad) for parameter in root.parameters()]
    for parameter, _ in kept:
        parameter.grad = None
    for value in values:
        if not value.is_leaf:
            value.retain_grad()
    try:
        loss.backward()  # type: ignore[no-untyped-call]
        return [value.grad for value in values]
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


@contextmanager
def _requiring_gradients(references: Sequence[TensorReference]) -> Iterator[None]:
    """Frozen weights are compressed as others are."""
    frozen: list[nn.Parameter] = [
        parameter
        for reference in references
        for parameter in reference.owners[0].module.parameters()
        if not parameter.requires_grad and parameter.is_floating_point()
    ]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
