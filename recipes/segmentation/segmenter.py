"""The LightningModule of the segmentation recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import lightning as L
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from lightning_compress.errors import ConfigurationError

from ..data.datamodule import RecipeDataModule, check_task
from ..data.masks.dataset import IGNORED
from ..normalization import example_images
from ..optimization import check_optimizer, one_cycle_of
from .model import Segmenter

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

Batch = tuple[Tensor, Tensor]

_AUXILIARY_WEIGHT = 0.4
"""Of the auxiliary head's loss beside the other's: that of Zhao et al., arXiv 1612.01105, which torchvision takes."""


class ImageSegmenter(L.LightningModule):
    """Trains a segmentation network on images in [0, 1], N x 3 x H x W, and masks, N x H x W, where 255 is ignored.

    The network is the attribute `model`: it takes images as they are, and compression applies to it
    (`Compression(..., module="model")`). Mean intersection over union is logged as `val/miou` and `test/miou`.

    Args:
        num_classes: number of classes with the background.
        image_size: height and width of the images, in pixels; sets `example_input_array`.
        architecture: `deeplabv3` or `lraspp`; see `Segmenter`.
        weights: pretrained weights: a name of torchvision's weights of that architecture, a file, or None.
        backbone_weights: likewise of the backbone alone, a MobileNetV3-Large.
        optimizer: `adamw` or `sgd`.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: of weights; biases and normalization are not decayed.
        momentum: SGD's momentum or AdamW's first beta.
        warmup_fraction: share of the fit in which the learning rate rises.

    Raises:
        ConfigurationError: weights or settings that cannot be used.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        *,
        architecture: str = "lraspp",
        weights: str | None = None,
        backbone_weights: str | None = None,
        optimizer: str = "adamw",
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        momentum: float = 0.9,
        warmup_fraction: float = 0.3,
    ) -> None:
        super().__init__()
        check_optimizer(
            optimizer, learning_rate, warmup_fraction, weight_decay=weight_decay, momentum=momentum
        )
        self.save_hyperparameters()
        self.model = Segmenter(
            num_classes, architecture=architecture, weights=weights, backbone_weights=backbone_weights
        )
        self.example_input_array = example_images(image_size)
        # The Jaccard index is another name of intersection over union. torchmetrics' `MeanIoU` would average over
        # images, where a class that an image hardly shows counts as much as one that fills it, and ignores no class.
        self.val_miou = MulticlassJaccardIndex(num_classes, ignore_index=IGNORED)
        self.test_miou = MulticlassJaccardIndex(num_classes, ignore_index=IGNORED)

    def setup(self, stage: str) -> None:
        """Refuses data for another task, and batches of one image where normalization needs more."""
        check_task(self, "segmentation")
        data = getattr(self.trainer, "datamodule", None)
        needs_more = self.hparams["architecture"] == "deeplabv3"
        if stage == "fit" and needs_more and isinstance(data, RecipeDataModule) and data.batch_size < 2:
            raise ConfigurationError(
                "data.batch_size=1 is too small for architecture='deeplabv3': one branch of it normalizes a single "
                "pixel of each image over the batch. Valid are batches of at least 2, or architecture=lraspp."
            )

    def forward(self, images: Tensor) -> Tensor:
        """Class logits, N x classes x H x W, of images in [0, 1], N x 3 x H x W."""
        return cast(Tensor, self.model(images))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross entropy of a batch, over the pixels that are not ignored."""
        images, masks = batch
        logits, auxiliary = self.model.training_logits(images)
        loss = _cross_entropy(logits, masks)
        if auxiliary is not None:
            loss = loss + _AUXILIARY_WEIGHT * _cross_entropy(auxiliary, masks)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts the pixels of a batch by their true class and the network's."""
        images, masks = batch
        self.val_miou(self.model(images), masks)
        self.log("val/miou", self.val_miou, on_epoch=True, prog_bar=True, batch_size=len(images))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts the pixels of a batch by their true class and the network's."""
        images, masks = batch
        self.test_miou(self.model(images), masks)
        self.log("test/miou", self.test_miou, on_epoch=True, batch_size=len(images))

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class probabilities of a batch, N x classes x H x W."""
        return cast(Tensor, self.model(batch[0])).float().softmax(dim=1)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer under a one-cycle schedule as long as the fit."""
        return one_cycle_of(self)


def _cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    total = F.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="sum")
    # The mean of a batch in which all is ignored would be no number, and end the fit.
    return total / (masks != IGNORED).sum().clamp(min=1)
