"""What the tests of differentiable k-means share: the formulas, written down plainly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


def dkm_formulas(
    weight: Tensor, centroids: Tensor, *, temperature: float, iterations: int, attention_floor: float = 0.0
) -> tuple[Tensor, Tensor]:
    """DKM as the paper writes it, with the whole attention matrix, differentiable by autograd."""
    flat = weight.reshape(-1, 1)
    for _ in range(iterations):
        attention = torch.softmax(-((flat - centroids.T) ** 2) / temperature, dim=-1).clamp_min(
            attention_floor
        )
        centroids = attention.T @ flat / attention.sum(dim=0).unsqueeze(-1)
    return (attention @ centroids).view_as(weight), centroids


@pytest.fixture
def formulas() -> Callable[..., tuple[Tensor, Tensor]]:
    """The plain DKM of the paper."""
    return dkm_formulas
