"""Modules of one's own as users write them, good and bad, for `recipe=module`."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassF1Score

WORDS = [
    "recipe=module",
    "data._target_=tests.commands.own.Digits",
    "recipe.metric=val/f1",
    "trainer.accelerator=cpu",
    "float_fit.trainer.max_steps=4",
    "compressed_fit.trainer.max_steps=4",
    "post_training_bits=[2]",
    "callbacks.progress_bar=null",
]


class Digits(L.LightningDataModule):
    """scikit-learn's digits, grey, 8 x 8, in [0, 1]."""

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def loader(self, part: slice, *, shuffle: bool = False) -> DataLoader[Any]:
        digits = load_digits()
        images = torch.tensor(digits.images[part] / 16).float().unsqueeze(1)
        return DataLoader(TensorDataset(images, torch.tensor(digits.target[part])), self.batch_size, shuffle)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader(slice(256), shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader(slice(256, 400))


class Tagger(L.LightningModule):
    """Has its own loss, its own metric, and a part beside the network that is trained too."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, 10))
        self.f1 = MulticlassF1Score(10)
        self.example_input_array = torch.zeros(1, 1, 8, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self(batch[0])
        self.f1(logits, batch[1])
        self.log("val/f1", self.f1)
        self.log("val/loss", nn.functional.cross_entropy(logits, batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


class Scaled(Tagger):
    """What it has learnt stands partly outside of the network: a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.network = self.model
        del self.model
        self.temperature = nn.Linear(1, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images) * self.temperature.weight


class WithoutExample(Tagger):
    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = None


class WithoutLoss(Tagger):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        nn.functional.cross_entropy(self(batch[0]), batch[1])


class ReachesPast(Tagger):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        features = self.model[0](batch[0])
        self.log("val/f1", features.mean())


class ReachesByName(Tagger):
    def __init__(self) -> None:
        super().__init__()
        self.first = self.model[0]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/f1", self.first(batch[0]).mean() + self(batch[0]).mean())


class WithoutValidation(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(64, 64)
        self.example_input_array = torch.zeros(1, 64)

    def forward(self, values: Tensor) -> Tensor:
        return self.model(values)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0].flatten(1)).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())
