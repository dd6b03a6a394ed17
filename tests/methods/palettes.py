"""A network whose weights are palettized, and a fit of a few steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.mechanism.schedule import FitLength
from lightning_compress.methods.palettization import DKMPalettization, Palette

LAYERS = ("0", "2", "6")


def network() -> nn.Sequential:
    """Two convolutions and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def prepared(module: nn.Module | None = None, *others: Any, steps: int = 6, **options: Any) -> PreparedModule:
    """A module with palettes of two bits in place, ready to train."""
    method = DKMPalettization(**{"n_bits": 2, "weight_threshold": 100, **options})
    preparation = PreparedModule(network() if module is None else module, [method, *others])
    preparation.resolve_schedule(FitLength(steps))
    return preparation


def batch(step: int) -> Tensor:
    """The images of a step."""
    return torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(step))


def train(preparation: PreparedModule, steps: int, first: int = 0) -> None:
    """Train for some optimizer steps."""
    preparation.start_training()
    preparation.module.train()
    optimizer = torch.optim.SGD(preparation.module.parameters(), lr=0.1)
    for step in range(first, first + steps):
        optimizer.zero_grad()
        preparation.module(batch(step)).square().mean().backward()
        optimizer.step()
        preparation.step()


def palette_of(module: nn.Module, name: str) -> Palette:
    """The palette on the weight of a layer."""
    chain = module.get_submodule(name).parametrizations.weight
    return next(part for part in chain if isinstance(part, Palette))
