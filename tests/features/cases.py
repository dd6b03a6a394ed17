"""The methods and the fits that the matrix of features is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress import Compression, DKMPalettization, LinearQuantization, MagnitudePruning
from lightning_compress.methods import Method

STEPS = 8
"""Optimizer steps of a fit of two epochs."""

_PRUNING: dict[str, Any] = {"target_sparsity": 0.75, "scheduler": {"begin_step": 0.0, "end_step": 0.5}}
_MILESTONES = [0, 0.25, 0.6, 0.7]

METHODS: dict[str, Callable[[], list[Method]]] = {
    "pruning": lambda: [MagnitudePruning(**_PRUNING)],
    "palettization": lambda: [DKMPalettization(n_bits=2, milestone=0.3)],
    "quantization": lambda: [LinearQuantization(milestones=_MILESTONES)],
    "learnable quantization": lambda: [LinearQuantization(algorithm="learnable", milestones=_MILESTONES)],
    "pruning + palettization": lambda: [
        MagnitudePruning(**_PRUNING),
        DKMPalettization(n_bits=2, milestone=0.3),
    ],
    "pruning + quantization": lambda: [
        MagnitudePruning(**_PRUNING),
        LinearQuantization(milestones=_MILESTONES),
    ],
    "palettization + int8 activations": lambda: [
        DKMPalettization(n_bits=2, milestone=0.3),
        LinearQuantization(weight_dtype="float32", milestones=_MILESTONES),
    ],
}


class Network(nn.Module):
    """A convolution, batch norm and a linear layer, both large enough for palettes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 256, 3, padding=1)
        self.norm = nn.BatchNorm2d(256)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(256, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.relu(self.norm(self.conv(images)))).flatten(1))


class Digits(L.LightningModule):
    """Trains a network, which is its attribute `model`."""

    def __init__(self, network: Callable[[], nn.Module] = Network) -> None:
        super().__init__()
        self.model = network()
        self.learning_rate = 3e-3
        self.batch_size = 32
        self.example_input_array = torch.zeros(1, 1, 8, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def loss(self, batch: list[Tensor]) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("loss", self.loss(batch), batch_size=len(batch[1]))

    test_step = validation_step

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.learning_rate)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(digits(0, 128), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(digits(1400, 1464), batch_size=64)

    test_dataloader = val_dataloader


def digits(start: int, stop: int) -> TensorDataset:
    """Handwritten digits as images of 1 x 8 x 8 from 0 to 1, with labels."""
    bunch = load_digits()
    images = torch.tensor(bunch.images[start:stop], dtype=torch.float32)[:, None] / 16
    return TensorDataset(images, torch.tensor(bunch.target[start:stop]))


def make_trainer(folder: Path, callbacks: Sequence[L.Callback], **settings: Any) -> L.Trainer:
    """A Trainer of two epochs on the CPU that writes nothing unless asked."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "default_root_dir": str(folder),
        "max_epochs": 2,
    }
    return L.Trainer(callbacks=list(callbacks), **{**defaults, **settings})


@dataclass
class Case:
    """One method under one feature.

    Attributes:
        method: A key of `METHODS`.
        folder: Where a fit may write.
        compression: The callback.
    """

    method: str
    folder: Path
    compression: Compression = field(init=False)

    def __post_init__(self) -> None:
        L.seed_everything(1, verbose=False)
        self.compression = Compression(*METHODS[self.method](), module="model")

    def fit(
        self, *callbacks: L.Callback, module: L.LightningModule | None = None, **settings: Any
    ) -> L.Trainer:
        """Fit, by default a fresh `Digits`."""
        trainer = make_trainer(self.folder, [self.compression, *callbacks], **settings)
        trainer.fit(Digits() if module is None else module)
        return trainer

    def check(self, *, tolerance: float = 1e-2) -> None:
        """Assert that the finalized module is compressed as asked, and computes what the prepared one does.

        Args:
            tolerance: Mean difference of the outputs in their standard deviations; rounding to 8 bits may fall to the
                other side in a few.
        """
        finalized = self.compression.finalized
        assert finalized is not None
        self.check_layers(finalized)
        prepared = self.compression._require()
        images = digits(1400, 1500).tensors[0]
        training = prepared.module.training
        prepared.module.eval()
        with torch.no_grad():
            given = images.to(next(prepared.module.parameters()).dtype)
            expected, actual = prepared.module(given).float(), finalized(images)
        prepared.module.train(training)
        spread = float(expected.std())
        assert spread > 0
        assert float((expected - actual).abs().mean()) <= tolerance * spread

    def check_layers(self, finalized: nn.Module) -> None:
        """Assert that every convolution and linear layer is compressed as asked."""
        layers = {layer.name: layer for layer in self.compression.layers}
        assert layers
        for name, layer in layers.items():
            if "pruning" in self.method:
                assert abs(layer.sparsity - 0.75) < 0.01 or layer.sparsity > 0.75, (name, layer)
                assert "pruned" in layer.technique
            if self.method.endswith("quantization"):
                assert "quantized" in layer.technique, (name, layer)
                assert layer.bits == 8
            if "palettization" in self.method and layer.parameters > 2048:
                assert "palettized" in layer.technique, (name, layer)
                assert layer.bits == 2
                assert finalized.get_parameter(name).unique().numel() <= 4


def steps_of(case: Case) -> int:
    """Optimizer steps that the compression counted."""
    return int(case.compression.state_dict()["progress"]["steps"])


def weight(case: Case) -> Tensor:
    """The weight of the convolution, in training."""
    parameters = case.compression._require().module.parameters()
    return next(parameter.detach() for parameter in parameters if parameter.dim() == 4)


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two state dicts are the same bit by bit."""
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) if isinstance(value, Tensor) else value == second[key]
        for key, value in first.items()
    )
