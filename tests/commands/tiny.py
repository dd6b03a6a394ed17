"""A recipe small enough to be stopped in each of its stages, which ends its own process where it is told to.

`STOP_AT=validate:2:SIGKILL` sends the signal when the point `validate` is reached for the second time in a process.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.utils import make_grid

from lightning_compress.coreml import CoreMLExport
from lightning_compress.recipes.normalization import Normalized, example_images
from lightning_compress.recipes.optimization import one_cycle_of
from lightning_compress.recipes.resnet50.evaluation import Batch, ClassificationEvaluation
from lightning_compress.tasks import Classification

WORDS = [
    "recipe=resnet50",
    "recipe.module._target_=tests.commands.tiny.Classifier",
    "recipe.task._target_=tests.commands.tiny.Reached",
    "data.image_size=32",
    "data.batch_size=8",
    "trainer.accelerator=cpu",
    "trainer.limit_train_batches=6",
    "trainer.limit_val_batches=2",
    "trainer.log_every_n_steps=1",
    "float_fit.trainer.max_epochs=2",
    "compressed_fit.trainer.max_epochs=2",
    "post_training_bits=[4,2]",
    "callbacks.progress_bar=null",
]
"""What makes `train` a job of seconds: two epochs of six steps a fit."""

_reached: Counter[str] = Counter()


def reach(point: str) -> None:
    """Send the signal that the environment asks for, if this is its point."""
    _reached[point] += 1
    wanted, _, rest = os.environ.get("STOP_AT", "").partition(":")
    count, _, name = rest.partition(":")
    if wanted == point and _reached[point] == int(count):
        os.kill(os.getpid(), getattr(signal, name))


class Classifier(ClassificationEvaluation):
    """A convolutional network with dropout, on the recipe's data and schedule."""

    def __init__(self, num_classes: int, image_size: int, **settings: Any) -> None:
        super().__init__(num_classes)
        self.save_hyperparameters()
        self.hparams.update({key: value for key, value in settings.items() if key in _OF_SCHEDULE})
        layers = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(256, num_classes),
        )
        self.model = Normalized(layers)
        self.example_input_array = example_images(image_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def probabilities(self, images: Tensor) -> Tensor:
        reach("validate")
        return super().probabilities(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        reach("train")
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train/loss", loss, batch_size=len(images))
        return loss

    def configure_optimizers(self) -> Any:
        return one_cycle_of(self)


_OF_SCHEDULE = ("optimizer", "learning_rate", "weight_decay", "momentum", "warmup_fraction")


class Reached(Classification):
    """Wraps the network for each conversion, and runs each package that is measured."""

    _package: nn.Module | None = None

    def interface(self, export: CoreMLExport, classes: Sequence[str]) -> CoreMLExport:
        export = super().interface(export, classes)
        assert export.wrapper is not None
        return dataclasses.replace(export, wrapper=_Wrapped(export.wrapper))

    def run(self, package: nn.Module, inputs: Sequence[Tensor]) -> Mapping[str, Any]:
        if package is not self._package:
            self._package = package
            reach("measure")
        return super().run(package, inputs)

    def picture(
        self,
        images: Tensor,
        outputs: Mapping[str, Any],
        classes: Sequence[str],
        *,
        threshold: float,
        columns: int | None = None,
    ) -> Tensor:
        return make_grid(images / 255, nrow=columns or 4)


class _Wrapped:
    def __init__(self, wrapper: Callable[[nn.Module], nn.Module]) -> None:
        self.wrapper = wrapper

    def __call__(self, module: nn.Module) -> nn.Module:
        reach("export")
        return self.wrapper(module)


class _Rank(nn.Module):
    """Torch computes it, and Core ML has no operation for it."""

    def forward(self, values: Tensor) -> Tensor:
        return values * torch.linalg.matrix_rank(values[:, :4].reshape(-1, 2, 2))[:, None]


class Unexportable(Classifier):
    """A network that can be trained and that no package can hold."""

    def __init__(self, num_classes: int, image_size: int, **settings: Any) -> None:
        super().__init__(num_classes, image_size, **settings)
        self.model.network.append(_Rank())


__all__ = ["WORDS", "Classifier", "Reached", "Unexportable"]
