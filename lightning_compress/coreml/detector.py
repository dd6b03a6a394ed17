"""Core ML's own non-maximum suppression behind a program, as a pipeline that Vision takes as an object detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import coremltools as ct

from lightning_compress.arguments import require_flag, require_number
from lightning_compress.coreml.temporary_packages import removed_with
from lightning_compress.counted import counted
from lightning_compress.errors import ConfigurationError

CONFIDENCE = "confidence"
COORDINATES = "coordinates"
IOU_THRESHOLD = "iouThreshold"
CONFIDENCE_THRESHOLD = "confidenceThreshold"
"""The names by which Vision and Xcode know a detector's outputs and thresholds."""

RAW_OUTPUTS = ("raw_confidence", "raw_coordinates")
"""Outputs of the program, which the suppression takes: every box, whatever its confidence."""


@dataclass(frozen=True)
class NonMaximumSuppression:
    """Core ML's non-maximum suppression, which runs after the program in a pipeline.

    The exported module returns two tensors for one image: confidences [boxes, classes], which sum to 1 at most
    for each box, background left out, and coordinates [boxes, 4] as centre x, centre y, width and height in
    shares of the image's sides, from its upper left corner. The package then has the outputs `confidence` and
    `coordinates` with the boxes that are left, best first, and the optional inputs `iouThreshold` and
    `confidenceThreshold`, by which an app adjusts the thresholds without another export.

    Args:
        iou_threshold: Of two boxes that overlap more, the one of lower confidence is dropped; in [0, 1].
        confidence_threshold: Boxes whose best class has less are dropped; 0 or more.
        per_class: Let boxes of one class alone suppress one another; a box counts as its best class.

    Raises:
        ConfigurationError: If a threshold lies outside its range.

    Example:
        >>> nms = NonMaximumSuppression(iou_threshold=0.5)
    """

    iou_threshold: float = 0.45
    confidence_threshold: float = 0.25
    per_class: bool = True

    def __post_init__(self) -> None:
        for name in ("iou_threshold", "confidence_threshold"):
            require_number(name, getattr(self, name))
        require_flag("per_class", self.per_class)
        if not 0 <= self.iou_threshold <= 1:
            raise ConfigurationError(f"iou_threshold={self.iou_threshold!r} is not in [0, 1]")
        if not self.confidence_threshold >= 0:
            raise ConfigurationError(
                f"confidence_threshold={self.confidence_threshold!r} is negative; valid is 0 or more"
            )


def with_suppression(
    model: ct.models.MLModel, labels: Sequence[str], suppression: NonMaximumSuppression
) -> ct.models.MLModel:
    """A pipeline of an ML Program and non-maximum suppression.

    Args:
        model: A program whose outputs are `RAW_OUTPUTS`, in float32, which is what Core ML's suppression takes.
        labels: One for each class.
        suppression: The thresholds.

    Raises:
        ConfigurationError: If the outputs do not have the shapes of boxes, or there are more or fewer labels
            than classes.
    """
    program = model.get_spec()
    boxes = _require_boxes(program, labels)
    stage = _stage(program, labels, suppression, boxes)
    pipeline = ct.proto.Model_pb2.Model()
    pipeline.specificationVersion = program.specificationVersion
    pipeline.pipeline.models.extend([program, stage])
    pipeline.pipeline.names.extend(["detector", "non_maximum_suppression"])
    pipeline.description.input.extend(program.description.input)
    pipeline.description.input.extend(stage.description.input[2:])
    pipeline.description.output.extend(stage.description.output)
    pipeline.description.metadata.CopyFrom(program.description.metadata)
    return removed_with(ct.models.MLModel(pipeline, weights_dir=model.weights_dir, skip_model_load=True))


def _require_boxes(program: Any, labels: Sequence[str]) -> int:
    shapes = {item.name: list(item.type.multiArrayType.shape) for item in program.description.output}
    confidence, coordinates = (shapes[name] for name in RAW_OUTPUTS)
    if len(confidence) != 2 or len(coordinates) != 2 or coordinates != [confidence[0], 4]:
        raise ConfigurationError(
            f"the module to export with nms returns confidences of shape {confidence} and coordinates of shape "
            f"{coordinates}; Core ML's non-maximum suppression takes (boxes, classes) and (boxes, 4). Bring them "
            "into that form with `wrapper`"
        )
    if confidence[1] != len(labels):
        raise ConfigurationError(
            f"class_labels has {counted(len(labels), 'label')} for confidences of "
            f"{counted(confidence[1], 'class', 'classes')}; each class needs "
            "one, and the background is left out"
        )
    return int(confidence[0])


def _stage(program: Any, labels: Sequence[str], suppression: NonMaximumSuppression, boxes: int) -> Any:
    stage = ct.proto.Model_pb2.Model()
    stage.specificationVersion = program.specificationVersion
    nms = stage.nonMaximumSuppression
    nms.pickTop.perClass = suppression.per_class
    nms.stringClassLabels.vector.extend(labels)
    nms.iouThreshold = suppression.iou_threshold
    nms.confidenceThreshold = suppression.confidence_threshold
    nms.confidenceInputFeatureName, nms.coordinatesInputFeatureName = RAW_OUTPUTS
    nms.iouThresholdInputFeatureName = IOU_THRESHOLD
    nms.confidenceThresholdInputFeatureName = CONFIDENCE_THRESHOLD
    nms.confidenceOutputFeatureName = CONFIDENCE
    nms.coordinatesOutputFeatureName = COORDINATES
    stage.description.input.extend(program.description.output)
    for name, value in (
        (IOU_THRESHOLD, suppression.iou_threshold),
        (CONFIDENCE_THRESHOLD, suppression.confidence_threshold),
    ):
        threshold = stage.description.input.add()
        threshold.name = name
        threshold.shortDescription = f"optional; {value:g} by default"
        threshold.type.doubleType.SetInParent()
        threshold.type.isOptional = True
    for name, width, text in (
        (CONFIDENCE, len(labels), "for each box that is left, the confidence of each class"),
        (COORDINATES, 4, "centre x, centre y, width, height of each box, in shares of the image's sides"),
    ):
        output = stage.description.output.add()
        output.name = name
        output.shortDescription = text
        array = output.type.multiArrayType
        array.dataType = ct.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32
        # As many rows as boxes are left: a fixed shape would be filled up with zeros.
        for lower, upper in ((0, boxes), (width, width)):
            size = array.shapeRange.sizeRanges.add()
            size.lowerBound, size.upperBound = lower, upper
    return stage
