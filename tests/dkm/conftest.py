"""What the tests of differentiable k-means share: the formulas written down plainly, and weights of many shapes."""

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


def make_weights(kind: str, size: int) -> Tensor:
    """Weights of the shapes that networks have, float32."""
    generator = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(size, generator=generator)

    if kind == "normal":
        weights = normal() * 0.02
    elif kind == "heavy tailed":
        chi = (normal() ** 2 + normal() ** 2 + normal() ** 2) / 3
        weights = normal() / chi.sqrt() * 0.01
    elif kind == "two peaks":
        weights = torch.where(normal() < 0, -0.1, 0.1) + normal() * 0.005
    elif kind == "half zero":
        weights = torch.where(normal() < 0, torch.zeros(size), normal() * 0.02)
    elif kind == "tiny range":
        weights = normal() * 0.001
    else:
        weights = normal() * 0.3
    return weights


WEIGHT_KINDS = ["normal", "heavy tailed", "two peaks", "half zero", "tiny range", "wide"]


@pytest.fixture
def formulas() -> Callable[..., tuple[Tensor, Tensor]]:
    """The plain DKM of the paper."""
    return dkm_formulas


@pytest.fixture(params=WEIGHT_KINDS)
def weights(request: pytest.FixtureRequest) -> Tensor:
    """30,000 weights of each shape in turn."""
    return make_weights(request.param, 30_000)


@pytest.fixture
def make() -> Callable[[str, int], Tensor]:
    """Weights of a named shape and a size."""
    return make_weights
