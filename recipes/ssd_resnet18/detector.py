"""The LightningModule of the detection recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_compress.tasks.detections import DetectionThresholds

from ..normalization import example_images
from ..optimization import check_optimizer, one_cycle_of
from ..ranges import require_between
from .default_boxes import ASPECT_RATIOS, SCALES, default_boxes
from .evaluation import Batch, DetectionEvaluation
from .loss import MultiBoxLoss
from .model import Detector
from .network import build_network

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig


class ObjectDetector(DetectionEvaluation):
    """Trains an SSD on ResNet18 on batches of images in [0, 1], N x 3 x H x W, and a list of N targets.

    A target holds `boxes`, n x 4 corners in pixels, `labels`, n, counted from 1 (0 is the background), and in
    evaluation optionally `iscrowd`, n. The network is the attribute `model`: it takes images and returns scored boxes,
    and is what is compressed and exported (`Compression(..., module="model")`).

    Args:
        num_classes: object classes; the background is not counted.
        image_size: height and width of the images, in pixels.
        weights: pretrained weights: a name of torchvision's `ResNet18_Weights`, a file with a state dict of a
            ResNet18 or of the whole network, or None.
        scales: of the default boxes, seven shares of the image's side.
        aspect_ratios: of the default boxes, for each of the six feature maps.
        optimizer: `adamw` or `sgd`.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: of weights; biases and normalization are not decayed.
        momentum: SGD's momentum or AdamW's first beta.
        warmup_fraction: share of the fit in which the learning rate rises.
        iou_threshold: overlap from which a default box matches an object in training.
        negatives_per_positive: how many background boxes count for each matched one in training.
        score_threshold: detections below it are dropped in evaluation.
        nms_threshold: overlap from which the weaker of two detections is dropped.

    Raises:
        ConfigurationError: weights or settings that cannot be used.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        *,
        weights: str | None = None,
        scales: Sequence[float] = SCALES,
        aspect_ratios: Sequence[Sequence[float]] = ASPECT_RATIOS,
        optimizer: str = "adamw",
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        momentum: float = 0.9,
        warmup_fraction: float = 0.3,
        iou_threshold: float = 0.5,
        negatives_per_positive: float = 3.0,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.45,
    ) -> None:
        super().__init__(DetectionThresholds(score=score_threshold, iou=nms_threshold))
        check_optimizer(
            optimizer, learning_rate, warmup_fraction, weight_decay=weight_decay, momentum=momentum
        )
        for name, value in (
            ("iou_threshold", iou_threshold),
            ("score_threshold", score_threshold),
            ("nms_threshold", nms_threshold),
        ):
            require_between(name, value, 0, 1)
        require_between("negatives_per_positive", negatives_per_positive, 0)
        self.save_hyperparameters()
        self.model = Detector(
            build_network(num_classes, aspect_ratios, weights), image_size, scales, aspect_ratios
        )
        self.loss = MultiBoxLoss(
            default_boxes(image_size, scales, aspect_ratios),
            image_size,
            iou_threshold=iou_threshold,
            negatives_per_positive=negatives_per_positive,
        )
        self.example_input_array = example_images(image_size)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scored boxes of images in [0, 1]; see `Detector`."""
        confidence, coordinates = self.model(images)
        return confidence, coordinates

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The multibox loss of a batch."""
        images, targets = batch
        losses = self.loss(*self.model.predictions(images), targets)
        loss: Tensor = losses["classification"] + losses["bbox_regression"]
        self.log_dict({f"train/{name}_loss": value for name, value in losses.items()}, batch_size=len(images))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer under a one-cycle schedule as long as the fit."""
        return one_cycle_of(self)
