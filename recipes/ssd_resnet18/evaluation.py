"""How a detector is measured, whatever computes its scored boxes."""

from __future__ import annotations

import lightning as L
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from lightning_compress.tasks.detections import Detected, DetectionThresholds, select_detections

from ..data.datamodule import check_task

Batch = tuple[Tensor, list[dict[str, Tensor]]]


class DetectionEvaluation(L.LightningModule):
    """Logs COCO's mean average precision: `val/map`, `val/map_50`, `test/map`, `test/map_50`.

    Its forward returns the scored boxes of images in [0, 1], N x 3 x H x W: scores N x A x classes without background,
    and boxes N x A x 4 as centre x, centre y, width, height in shares of the image's sides.

    Args:
        thresholds: how detections are chosen from scored boxes.
    """

    def __init__(self, thresholds: DetectionThresholds) -> None:
        super().__init__()
        self.thresholds = thresholds
        self.mean_average_precision = MeanAveragePrecision(backend="pycocotools")
        # An image may have more detections than the 100 that COCO's metric counts: the weakest do not matter.
        self.mean_average_precision.warn_on_many_detections = False

    def setup(self, stage: str) -> None:
        """Refuses data for another task."""
        check_task(self, "detection")

    def detect(self, images: Tensor) -> list[Detected]:
        """Detections in each image, in pixels; see `select_detections`."""
        scores, boxes = self(images)
        height, width = images.shape[-2:]
        return [
            select_detections(image_scores, image_boxes, (height, width), self.thresholds)
            for image_scores, image_boxes in zip(scores.float(), boxes.float(), strict=True)
        ]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Compares a batch's detections with its objects."""
        self._update(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs the epoch's precision."""
        self._log_precision("val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Compares a batch's detections with its objects."""
        self._update(batch)

    def on_test_epoch_end(self) -> None:
        """Logs the precision."""
        self._log_precision("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Detected]:
        """Detections of a batch."""
        return self.detect(batch[0])

    def _update(self, batch: Batch) -> None:
        images, targets = batch
        self.mean_average_precision.update(self.detect(images), targets)

    def _log_precision(self, split: str) -> None:
        results = self.mean_average_precision.compute()
        self.mean_average_precision.reset()
        for name in ("map", "map_50"):
            # The metric gathers all processes' images itself; averaging equal numbers changes nothing.
            self.log(f"{split}/{name}", results[name].to(self.device), prog_bar=True, sync_dist=True)
