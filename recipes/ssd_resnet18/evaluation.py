"""How a detector is measured, whatever computes its scores and boxes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision

from lightning_compress.coreml.detector import (
    CONFIDENCE,
    CONFIDENCE_THRESHOLD,
    COORDINATES,
    IOU_THRESHOLD,
)
from lightning_compress.errors import ConfigurationError
from lightning_compress.runtime import CoreMLPipeline

from ..data.datamodule import check_task
from .decoding import Detection, DetectionThresholds, select_detections

Batch = tuple[Tensor, list[dict[str, Tensor]]]


class DetectionEvaluation(L.LightningModule):
    """Logs COCO's mean average precision: `val/map`, `val/map_50`, `test/map`, `test/map_50`.

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

    @abstractmethod
    def scores_and_boxes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scored boxes of images in [0, 1], N x 3 x H x W.

        Returns:
            Scores N x A x classes without background, and boxes N x A x 4 as centre x, centre y, width,
            height in shares of the image's sides.
        """

    def detect(self, images: Tensor) -> list[Detection]:
        """Detections in each image, in pixels; see `select_detections`."""
        scores, boxes = self.scores_and_boxes(images)
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

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Detection]:
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


class ExportedDetector(DetectionEvaluation):
    """Measures a detector in its exported form, with `Trainer.test`.

    Args:
        exported: takes images, N x 3 x H x W, and returns what `DetectorExport` returns: scores and
            boxes, as a pair or as a mapping of `DetectorExport.output_names`; or a loaded package with
            non-maximum suppression, which then suppresses with these thresholds instead of its own.
        white: what a white pixel is in the images that `exported` takes: 1, or 255 for a loaded package.
        score_threshold: detections below it are dropped.
        nms_threshold: overlap from which the weaker of two detections is dropped.
        batched: whether `exported` takes several images at once; else they go in one at a time.

    Example:
        >>> package = runtime.load("detector.mlpackage")
        >>> evaluation = ExportedDetector(package, white=255)  # for `trainer.test(evaluation, datamodule=data)`
        >>> [sorted(detection) for detection in evaluation.detect(images)]
        [['boxes', 'labels', 'scores'], ['boxes', 'labels', 'scores']]
    """

    def __init__(
        self,
        exported: nn.Module,
        *,
        white: float = 1.0,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.45,
        batched: bool = False,
    ) -> None:
        super().__init__(DetectionThresholds(score=score_threshold, iou=nms_threshold))
        self.exported = exported
        self.white = white
        self.batched = batched

    def scores_and_boxes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scored boxes of images in [0, 1]; see `DetectionEvaluation`."""
        images = images * self.white
        parts = [images] if self.batched else torch.split(images, 1)
        if isinstance(self.exported, CoreMLPipeline):
            return _padded([self._suppressed(self.exported, part) for part in parts])
        outputs = [_scores_and_boxes(self.exported(part)) for part in parts]
        return torch.cat([scores for scores, _ in outputs]), torch.cat([boxes for _, boxes in outputs])

    def _suppressed(self, detector: CoreMLPipeline, images: Tensor) -> Mapping[str, list[Tensor]]:
        ours = {IOU_THRESHOLD: self.thresholds.iou, CONFIDENCE_THRESHOLD: self.thresholds.score}
        adjustable = detector.threshold_names
        outputs: Mapping[str, list[Tensor]] = detector(
            images, **{name: value for name, value in ours.items() if name in adjustable}
        )
        return outputs


def _padded(outputs: Sequence[Mapping[str, list[Tensor]]]) -> tuple[Tensor, Tensor]:
    """Boxes of images that have more or fewer, filled up with boxes of no confidence."""
    scores, boxes = (
        nn.utils.rnn.pad_sequence([tensor for part in outputs for tensor in part[name]], batch_first=True)
        for name in (CONFIDENCE, COORDINATES)
    )
    return scores, boxes


def _scores_and_boxes(output: tuple[Tensor, Tensor] | Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    if isinstance(output, Mapping):
        if not {"confidence", "coordinates"} <= output.keys():
            raise ConfigurationError(
                f"The exported detector returns {sorted(output)}; 'confidence' and 'coordinates' are needed."
            )
        output = output["confidence"], output["coordinates"]
    scores, boxes = output
    # The export of one image has no dimension for the batch.
    return scores.reshape(-1, *scores.shape[-2:]), boxes.reshape(-1, *boxes.shape[-2:])
