"""What tests share: real digits, a small network, its LightningModule, and quiet Trainers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.process_state import ProcessState

_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _WORKERS > 1:
    # Each process of the run takes its share of the cores, and so do those that tests start.
    _THREADS = max(1, (os.cpu_count() or 1) // _WORKERS)
    torch.set_num_threads(_THREADS)
    os.environ["OMP_NUM_THREADS"] = str(_THREADS)


class DigitNetwork(nn.Module):
    """A convolutional classifier of 8 x 8 digits, with weights small and large enough for every technique."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
        )
        self.head = nn.Linear(512, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).flatten(1))


class DigitModule(L.LightningModule):
    """Trains a `DigitNetwork`, which is its attribute `model`."""

    def __init__(self, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.model: nn.Module = DigitNetwork()
        self.learning_rate = learning_rate
        self.example_input_array = torch.zeros(1, 1, 8, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.log("accuracy", (self(images).argmax(1) == labels).float().mean(), batch_size=len(labels))

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class DigitData(L.LightningDataModule):
    """The first digits train, later ones validate."""

    def __init__(self, train: int = 256, batch_size: int = 32) -> None:
        super().__init__()
        bunch = load_digits()
        images = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
        labels = torch.tensor(bunch.target)
        self.train_set = TensorDataset(images[:train], labels[:train])
        self.val_set = TensorDataset(images[1400:1600], labels[1400:1600])
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val_set, batch_size=100)

    test_dataloader = val_dataloader


@pytest.fixture
def digit_network() -> nn.Module:
    """A fresh network of seeded weights."""
    torch.manual_seed(0)
    return DigitNetwork()


@pytest.fixture
def digit_module() -> DigitModule:
    """A fresh LightningModule of seeded weights."""
    torch.manual_seed(0)
    return DigitModule()


@pytest.fixture
def digit_data() -> DigitData:
    """256 digits in 8 batches, and 200 to validate."""
    return DigitData()


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., L.Trainer]:
    """Builds Trainers on the CPU that write nothing to the terminal, and nothing to the disk unless asked."""

    def make(*callbacks: L.Callback, **settings: Any) -> L.Trainer:
        defaults: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": str(tmp_path),
            "max_epochs": 2,
        }
        return L.Trainer(callbacks=list(callbacks), **{**defaults, **settings})

    return make


_WITH_LARGE_FITS = "commands"
"""The folder whose tests train the recipes; small modules everywhere else are slower with more threads than one."""


@pytest.fixture(autouse=True)
def process_state(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test starts from the same random state and number of threads, and what it changes is undone after it."""
    state = ProcessState.now()
    L.seed_everything(1, verbose=False)
    if _WITH_LARGE_FITS not in request.path.parts:
        torch.set_num_threads(1)
    yield
    state.restore()


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


@pytest.fixture(params=WEIGHT_KINDS)
def weights(request: pytest.FixtureRequest) -> Tensor:
    """30,000 weights of each shape in turn."""
    return make_weights(request.param, 30_000)


@pytest.fixture
def make() -> Callable[[str, int], Tensor]:
    """Weights of a named shape and a size."""
    return make_weights
