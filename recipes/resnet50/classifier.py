"""The LightningModule of the classification recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch.nn.functional as F
from torch import Tensor

from ..normalization import Normalized, example_images
from ..optimization import check_optimizer, one_cycle_of
from ..ranges import require_between
from .evaluation import Batch, ClassificationEvaluation
from .network import resnet50

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig


class ImageClassifier(ClassificationEvaluation):
    """Trains ResNet50 on batches of images in [0, 1], N x 3 x H x W, and their labels, N.

    The network is the attribute `model`: it takes images, normalizes them and returns logits. It is what is compressed
    and exported (`Compression(..., module="model")`).

    Args:
        num_classes: number of classes.
        image_size: height and width of the images, in pixels; sets `example_input_array`.
        weights: pretrained weights: a name of torchvision's `ResNet50_Weights`, a file, or None.
        optimizer: `adamw` or `sgd`.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: of weights; biases and normalization are not decayed.
        momentum: SGD's momentum or AdamW's first beta.
        warmup_fraction: share of the fit in which the learning rate rises.
        label_smoothing: share of the target that is spread over all classes.

    Raises:
        ConfigurationError: weights or settings that cannot be used.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        *,
        weights: str | None = None,
        optimizer: str = "adamw",
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        momentum: float = 0.9,
        warmup_fraction: float = 0.3,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes)
        check_optimizer(
            optimizer, learning_rate, warmup_fraction, weight_decay=weight_decay, momentum=momentum
        )
        require_between("label_smoothing", label_smoothing, 0, 1, below=True)
        self.save_hyperparameters()
        self.model = Normalized(resnet50(num_classes, weights))
        self.label_smoothing = label_smoothing
        self.example_input_array = example_images(image_size)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits, N x classes, of images in [0, 1], N x 3 x H x W."""
        return cast(Tensor, self.model(images))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer under a one-cycle schedule as long as the fit."""
        return one_cycle_of(self)
