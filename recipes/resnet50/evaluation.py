"""How a classifier is measured, whatever computes its probabilities."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from ..data.datamodule import check_task

Batch = tuple[Tensor, Tensor]


class ClassificationEvaluation(L.LightningModule):
    """Logs top-1 accuracy as `val/accuracy` and `test/accuracy`.

    Args:
        num_classes: number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def setup(self, stage: str) -> None:
        """Refuses data for another task."""
        check_task(self, "classification")

    @abstractmethod
    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities, N x classes, of images in [0, 1], N x 3 x H x W."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts the right answers of a batch."""
        images, labels = batch
        self.val_accuracy(self.probabilities(images), labels)
        self.log("val/accuracy", self.val_accuracy, on_epoch=True, prog_bar=True, batch_size=len(images))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts the right answers of a batch."""
        images, labels = batch
        self.test_accuracy(self.probabilities(images), labels)
        self.log("test/accuracy", self.test_accuracy, on_epoch=True, batch_size=len(images))

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities of a batch."""
        return self.probabilities(batch[0])


class ExportedClassifier(ClassificationEvaluation):
    """Measures a classifier in its exported form, with `Trainer.test`.

    Args:
        exported: takes images, N x 3 x H x W, and returns class probabilities, or a mapping with one tensor.
        num_classes: number of classes.
        white: what a white pixel is in the images that `exported` takes: 1, or 255 for a loaded package.
        batched: whether `exported` takes several images at once; else they go in one at a time.

    Example:
        >>> package = runtime.load("classifier.mlpackage")
        >>> evaluation = ExportedClassifier(package, 10, white=255)  # for `trainer.test(evaluation, datamodule=data)`
        >>> evaluation.probabilities(images).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, exported: nn.Module, num_classes: int, *, white: float = 1.0, batched: bool = False
    ) -> None:
        super().__init__(num_classes)
        self.exported = exported
        self.white = white
        self.batched = batched

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities, N x classes, of images in [0, 1], N x 3 x H x W."""
        images = images * self.white
        parts = [images] if self.batched else torch.split(images, 1)
        return torch.cat([_probabilities(self.exported(part)) for part in parts]).float()


def _probabilities(output: Tensor | Mapping[str, Tensor]) -> Tensor:
    if isinstance(output, Mapping):
        # The label of a classifier is no tensor.
        (output,) = (value for value in output.values() if isinstance(value, Tensor))
    return output
