"""How a classifier is measured, whatever computes its logits."""

from __future__ import annotations

import lightning as L
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from ..data.datamodule import check_task

Batch = tuple[Tensor, Tensor]


class ClassificationEvaluation(L.LightningModule):
    """Logs top-1 accuracy as `val/accuracy` and `test/accuracy`; its forward returns class logits, N x classes.

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

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities, N x classes, of images in [0, 1], N x 3 x H x W."""
        logits: Tensor = self(images)
        return logits.float().softmax(dim=-1)

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
