"""Boxes around objects: a confidence a class and four coordinates for each of many boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_compress.coreml.detector import (
    CONFIDENCE,
    CONFIDENCE_THRESHOLD,
    COORDINATES,
    IOU_THRESHOLD,
)
from lightning_compress.coreml.export import CoreMLExport
from lightning_compress.coreml.structure import take_apart
from lightning_compress.errors import ConfigurationError
from lightning_compress.runtime import CoreMLPipeline
from lightning_compress.tasks.classification import roots
from lightning_compress.tasks.detections import DetectionThresholds, draw_detections, select_detections
from lightning_compress.tasks.task import Task, then, with_labels, with_output_names

_LEAST_SIZE = 1e-3
"""Of a box that something may be compared with, in shares of the image's side."""

_BOXES = 3.0
"""What a change by a box's size counts beside one of its certainty: on the digits detector scores of single weights
rank drops of mAP better with it than with 1."""


class Detection(Task):
    """A network that returns confidences, N x boxes x classes, and coordinates, N x boxes x 4.

    Confidences leave the background out; coordinates are centre x, centre y, width and height in shares of the image's
    sides, which is what Core ML's non-maximum suppression and Vision take.

    Args:
        labels: As for `Task`.
        score_threshold: Weaker boxes of a package with non-maximum suppression are dropped where it is measured.
        nms_threshold: Overlap from which the weaker of two boxes is dropped then.
        most_boxes: Boxes drawn of an image, the best.
    """

    name: ClassVar[str] = "detection"

    def __init__(
        self,
        labels: Sequence[str] | None = None,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.45,
        most_boxes: int = 20,
    ) -> None:
        super().__init__(labels)
        self.thresholds = DetectionThresholds(score=score_threshold, iou=nms_threshold)
        self.most_boxes = most_boxes

    def interface(self, export: CoreMLExport, classes: Sequence[str]) -> CoreMLExport:
        """The boxes of one image under the names that Vision knows, and labels with non-maximum suppression."""
        export = with_output_names(then(export, _OneImage), CONFIDENCE, COORDINATES)
        return with_labels(export, classes) if export.nms is not None else export

    def run(self, package: nn.Module, inputs: Sequence[Tensor]) -> Mapping[str, Any]:
        """Run a package; one that suppresses does so with the thresholds of the task."""
        if not isinstance(package, CoreMLPipeline):
            return super().run(package, inputs)
        ours = {IOU_THRESHOLD: self.thresholds.iou, CONFIDENCE_THRESHOLD: self.thresholds.score}
        adjustable = package.threshold_names
        outputs: Mapping[str, Any] = package(
            *inputs, **{name: value for name, value in ours.items() if name in adjustable}
        )
        return outputs

    def restored(self, outputs: Mapping[str, Any], expected: Sequence[Tensor]) -> list[Tensor]:
        """Confidences and coordinates of all images; those with fewer boxes get some of no confidence."""
        return [_stacked(outputs[name]) for name in (CONFIDENCE, COORDINATES)]

    def comparable(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Roots of confidences, and coordinates in sizes of their boxes, as far as anybody believes in these.

        In one tensor, since one measure holds for both: overlap is lost with a part of a box's size as it is with a
        part of the confidence.
        """
        if len(outputs) != 2:
            return super().comparable(outputs)
        confidence, coordinates = outputs
        believed = roots(confidence.detach().amax(dim=-1, keepdim=True))
        # Centre x by the width, centre y by the height, and each of these by itself.
        moved = coordinates / coordinates.detach()[..., 2:].clamp_min(_LEAST_SIZE).repeat(
            *[1] * (coordinates.dim() - 1), 2
        )
        return [torch.cat([roots(confidence), _BOXES * believed * moved], dim=-1)]

    def pixel(self, export: CoreMLExport, size: tuple[int, int] | None) -> float | None:
        """One pixel in shares of the longer side."""
        return None if size is None else 1 / max(size)

    def picture(
        self,
        images: Tensor,
        outputs: Mapping[str, Any],
        classes: Sequence[str],
        *,
        threshold: float,
        columns: int | None = None,
    ) -> Tensor | None:
        """Each image with its boxes."""
        confidence, coordinates = self.restored(outputs, ())
        height, width = images.shape[-2:]
        detections = [
            select_detections(scores.float(), boxes.float(), (height, width), self.thresholds)
            for scores, boxes in zip(confidence, coordinates, strict=True)
        ]
        names = list(classes) or [str(index + 1) for index in range(confidence.shape[-1])]
        return draw_detections(
            images / 255,
            detections,
            names,
            threshold=threshold,
            most_boxes=self.most_boxes,
            columns=columns or 4,
        )


def _stacked(output: Tensor | Sequence[Tensor]) -> Tensor:
    if not isinstance(output, Tensor):
        return nn.utils.rnn.pad_sequence(list(output), batch_first=True)
    # The package of one image has no dimension for the batch.
    return output.reshape(-1, *output.shape[-2:])


class _OneImage(nn.Module):
    """A detector whose outputs have no dimension for the batch where that is one image, as Core ML wants it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **named: Any) -> tuple[Tensor, Tensor]:
        tensors = take_apart(self.module(*inputs, **named), type(self.module).__name__)
        if len(tensors) != 2 or tensors[1].shape[-1] != 4:
            raise ConfigurationError(
                f"task=detection needs a network that returns confidences, N x boxes x classes, and coordinates, "
                f"N x boxes x 4; {type(self.module).__name__} returns {[tuple(tensor.shape) for tensor in tensors]}"
            )
        confidence, coordinates = (tensor.squeeze(0) if tensor.dim() == 3 else tensor for tensor in tensors)
        return confidence, coordinates
