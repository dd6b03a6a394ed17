"""Small real networks and inputs for the tests of packages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn


@pytest.fixture(scope="session")
def build_network():
    """Builds a classifier of handwritten digits, large enough for its layers to be compressed."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        ).eval()

    return build


@pytest.fixture
def network(build_network) -> nn.Module:
    """That classifier."""
    return build_network()


@pytest.fixture(scope="session")
def digits() -> torch.Tensor:
    """scikit-learn's handwritten digits, shape (1797, 1, 8, 8), values 0 to 1."""
    return torch.from_numpy((load_digits().images / 16).astype(np.float32))[:, None]


@pytest.fixture(scope="session")
def digit(digits: torch.Tensor) -> torch.Tensor:
    """One digit, a batch of one."""
    return digits[:1]
