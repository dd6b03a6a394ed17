"""Small networks on Fashion-MNIST, with images in memory: residual, and of depthwise and pointwise convolutions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_compress.recipes.data.labels import FashionMNISTDataModule
from tests.features.cases import make_trainer

_WIDTHS = (16, 32, 64, 128)
_BATCH = 100


class FashionImages(L.LightningDataModule):
    """Fashion-MNIST's images, N x 1 x 28 x 28 in [0, 1], and their labels.

    Args:
        root: Where the raw files are; None for the default of the recipes' data module.
    """

    def __init__(self, root: str | None) -> None:
        super().__init__()
        self._root = root

    def setup(self, stage: str) -> None:
        """Read the files, once."""
        if not hasattr(self, "train"):
            files = FashionMNISTDataModule(**({} if self._root is None else {"root": self._root}))
            self.train, self.val = (
                TensorDataset(split.data[:, None].float() / 255, split.targets) for split in files.read()[:2]
            )

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """60,000 images."""
        return DataLoader(self.train, _BATCH, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """10,000 images."""
        return DataLoader(self.val, _BATCH)


class FashionNetwork(L.LightningModule):
    """Logs top-1 accuracy as `val/accuracy`.

    Args:
        kind: A key of `NETWORKS`.
        steps: Of the one-cycle schedule.
        learning_rate: Its peak.
        weight_decay: Of all weights.
    """

    def __init__(
        self, kind: str, steps: int, learning_rate: float = 3e-3, weight_decay: float = 1e-4
    ) -> None:
        super().__init__()
        self.model = NETWORKS[kind]()
        self.accuracy = MulticlassAccuracy(10, average="micro")
        self.example_input_array = torch.zeros(1, 1, 28, 28)
        self._steps = steps
        self._learning_rate, self._weight_decay = learning_rate, weight_decay

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x 10."""
        logits: Tensor = self.model(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count the right answers."""
        self.accuracy(self(batch[0]), batch[1])
        self.log("val/accuracy", self.accuracy, on_epoch=True, batch_size=len(batch[0]))

    def configure_optimizers(self) -> dict[str, object]:
        """AdamW under a one-cycle schedule."""
        optimizer = torch.optim.AdamW(self.parameters(), weight_decay=self._weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self._learning_rate, total_steps=self._steps
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Stage(nn.Module):
    """Half the size, more channels, and a residual block."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.down = _convolution(channels, width, 3, stride=2)
        self.first = _convolution(width, width, 3)
        self.second = _convolution(width, width, 3)

    def forward(self, values: Tensor) -> Tensor:
        values = self.down(values)
        moved: Tensor = values + self.second(self.first(values))
        return moved


def _residual() -> nn.Sequential:
    """12 weights of 0.4 to 148 thousand elements."""
    return nn.Sequential(
        _convolution(1, _WIDTHS[0], 5),
        *(_Stage(before, width) for before, width in itertools.pairwise(_WIDTHS)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(_WIDTHS[-1], 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def _separable() -> nn.Sequential:
    """12 weights of 0.3 to 26 thousand elements."""
    widths = (32, 48, 96, 96, 160, 160)
    strides = (1, 2, 1, 2, 1)
    blocks: list[nn.Module] = []
    for (before, width), stride in zip(itertools.pairwise(widths), strides, strict=True):
        blocks += [_convolution(before, before, 3, stride, groups=before), _convolution(before, width, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10)]
    return nn.Sequential(_convolution(1, widths[0], 5, 2), *blocks, *head)


def _convolution(channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


NETWORKS: Mapping[str, Callable[[], nn.Sequential]] = {
    "fashion_mnist": _residual,
    "fashion_mnist_separable": _separable,
}
"""What makes each network."""


def fitted(
    kind: str, root: str | None, steps: int, seed: int, weights: Path
) -> tuple[FashionNetwork, FashionImages]:
    """The network after a fit, and its data; a fit whose weights lie in the file is not repeated."""
    L.seed_everything(seed, verbose=False)
    module, data = FashionNetwork(kind, steps), FashionImages(root)
    if weights.is_file():
        module.load_state_dict(torch.load(weights, weights_only=True))
        return module.eval(), data
    make_trainer(weights.parent, [], max_epochs=-1, max_steps=steps).fit(module, datamodule=data)
    module.trainer = None  # type: ignore[assignment]
    torch.save(module.state_dict(), weights)
    return module.eval(), data
