"""Fits whose gradients can be computed again by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_compress import Compression, Distillation, DKMPalettization
from tests.conftest import DigitNetwork
from tests.features.cases import digits, make_trainer

BATCH = 16

WEIGHT = 0.7
"""Of the term, where it is computed by hand."""


class Fixed(L.LightningModule):
    """Trains a network on digits in a fixed order, by SGD."""

    def __init__(self, network: Callable[[], nn.Module] = DigitNetwork, learning_rate: float = 1e-2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = network()
        self.learning_rate = learning_rate
        self.example_input_array = torch.zeros(1, 1, 8, 8)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(digits(0, 4 * BATCH), batch_size=BATCH)


class Gradients(L.Callback):
    """Keeps the prepared module as it stands before the first step, and the gradients of that step."""

    def __init__(self) -> None:
        self.before: Any = None
        self.found: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.before = copy.deepcopy(pl_module.model)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if not self.found:
            self.found = {
                name: parameter.grad.clone()
                for name, parameter in pl_module.model.named_parameters()
                if parameter.grad is not None
            }


def compression(distillation: Distillation | None, head: str = "head") -> Compression:
    """Two bits for all but the head."""
    methods = DKMPalettization(n_bits=2, module_name_configs={head: None})
    return Compression(methods, module="model", distillation=distillation)


def fit(folder: Path, module: L.LightningModule, *callbacks: L.Callback, **settings: Any) -> L.Trainer:
    """One epoch of four batches."""
    trainer = make_trainer(folder, callbacks, **{"max_epochs": 1, **settings})
    trainer.fit(module)
    return trainer


def batches() -> list[tuple[Tensor, Tensor]]:
    """Those of an epoch."""
    images, labels = digits(0, 4 * BATCH).tensors
    return list(zip(images.split(BATCH), labels.split(BATCH), strict=True))


def soft_labels(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """The divergence of Hinton et al., written out."""
    p, q = (teacher / temperature).softmax(1), (student / temperature).log_softmax(1)
    return (p * (p.log() - q)).sum(1).mean() * temperature**2


def by_hand(before: nn.Module, loss: Callable[[nn.Module], Tensor]) -> dict[str, Tensor]:
    """Gradients of a loss of the prepared module as it was before the step."""
    loss(before).backward()
    return {name: p.grad for name, p in before.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    """Assert that tensors are the same but for rounding."""
    assert found.keys() == expected.keys()
    assert found
    for name, gradient in found.items():
        # That of a bias before batch norm is nothing but rounding.
        scale = float(expected[name].abs().max())
        assert float((gradient - expected[name]).abs().max()) <= tolerance * max(scale, 0.1), name


def weights_after(
    folder: Any, module: L.LightningModule, distillation: Distillation | None, **settings: Any
) -> Any:
    """The state of the network after a fit."""
    fit(folder, module, compression(distillation), **settings)
    return {name: tensor.clone() for name, tensor in module.model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether tensors are the same bit by bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
