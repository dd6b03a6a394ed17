"""Matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_compress.runtime.batching import inner_ranks
from lightning_compress.runtime.registry import register


@register("linear", tensors="x weight bias", samplewise=inner_ranks("x", minimum=2), new_memory=True)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`."""
    if not x.is_floating_point():
        product = torch.matmul(x, weight.T)
        return product if bias is None else product + bias
    return F.linear(x, weight, bias)


@register("matmul", tensors="x y", samplewise=inner_ranks("x", "y", minimum=3), new_memory=True)
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Batched matrix product with broadcasting; the last two axes may be swapped first."""
    if transpose_x and x.dim() > 1:
        x = x.transpose(-1, -2)
    if transpose_y and y.dim() > 1:
        y = y.transpose(-1, -2)
    return torch.matmul(x, y)


@register("einsum", tensors="values")
def einsum(values: list[Tensor], equation: str) -> Tensor:
    """Product of two tensors in einsum notation; axes of size 1 are broadcast."""
    left, right = values
    letters_left, letters_right = equation.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for letters, value in ((letters_left, left), (letters_right, right)):
        for letter, size in zip(letters, value.shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return torch.einsum(
        equation,
        left.expand([sizes[letter] for letter in letters_left]),
        right.expand([sizes[letter] for letter in letters_right]),
    )
