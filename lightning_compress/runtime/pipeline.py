"""Pipelines: programs that feed one another, and Core ML's own non-maximum suppression behind a detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.errors import PackageError
from lightning_compress.runtime.interface import ProgramInput, bind
from lightning_compress.runtime.module import CoreMLProgram, Precision
from lightning_compress.runtime.ops.detection import suppress


class SuppressionStage(nn.Module):
    """Core ML's non-maximum suppression model.

    Attributes:
        class_labels: the labels of the classes, in the order of the scores.
        input_names: names of the scores and of the boxes.
        threshold_names: names of the inputs that override the IoU and the confidence threshold.
        iou_threshold: boxes that overlap a better one by more are dropped, unless the caller says otherwise.
        confidence_threshold: boxes whose best score is below it are dropped, unless the caller says otherwise.
        per_class: only boxes of the same class suppress one another.
        output_names: names of the kept scores and of the kept boxes.
    """

    def __init__(self, specification: Any, package: str) -> None:
        super().__init__()
        self.package = package
        model = specification.nonMaximumSuppression
        labels = model.WhichOneof("ClassLabels")
        self.class_labels = tuple(getattr(model, labels).vector) if labels else None
        self.iou_threshold = float(model.iouThreshold)
        self.confidence_threshold = float(model.confidenceThreshold)
        self.per_class = bool(model.pickTop.perClass)
        self.input_names = (model.confidenceInputFeatureName, model.coordinatesInputFeatureName)
        self.threshold_names = (
            model.iouThresholdInputFeatureName,
            model.confidenceThresholdInputFeatureName,
        )
        self.output_names = (model.confidenceOutputFeatureName, model.coordinatesOutputFeatureName)

    def forward(
        self,
        confidence: Tensor,
        coordinates: Tensor,
        iou_threshold: float | None = None,
        confidence_threshold: float | None = None,
    ) -> dict[str, list[Tensor]]:
        """Keep the best of overlapping boxes.

        Args:
            confidence: [boxes, classes] or [samples, boxes, classes].
            coordinates: [boxes, 4] or [samples, boxes, 4] as (x, y, width, height) around the centre.
            iou_threshold: instead of the model's own.
            confidence_threshold: instead of the model's own.

        Returns:
            For each output a list with a tensor for each sample: scores [kept, classes] and boxes [kept, 4], best
            first.

        Raises:
            PackageError: when there are not as many boxes as scores.
        """
        shapes = (tuple(confidence.shape), tuple(coordinates.shape))
        if shapes[0][:-1] != shapes[1][:-1] or len(shapes[0]) not in (2, 3) or shapes[1][-1] != 4:
            raise PackageError(
                f"The suppression in {self.package} gets scores of shape {list(shapes[0])} and boxes of shape "
                f"{list(shapes[1])}; it takes [boxes, classes] and [boxes, 4]."
            )
        iou = self.iou_threshold if iou_threshold is None else iou_threshold
        least = self.confidence_threshold if confidence_threshold is None else confidence_threshold
        scores = (confidence if confidence.dim() == 3 else confidence.unsqueeze(0)).to(torch.float32)
        boxes = (coordinates if coordinates.dim() == 3 else coordinates.unsqueeze(0)).to(torch.float32)
        kept = [suppress(b, s, iou, least, self.per_class) for b, s in zip(boxes, scores, strict=True)]
        return {
            self.output_names[0]: [s[k] for s, k in zip(scores, kept, strict=True)],
            self.output_names[1]: [b[k] for b, k in zip(boxes, kept, strict=True)],
        }


Stage = CoreMLProgram | SuppressionStage


class CoreMLPipeline(nn.Module):
    """A pipeline of Core ML programs, with non-maximum suppression at its end for a detector.

    Call it as a `CoreMLProgram`. What non-maximum suppression returns differs in size from sample to sample, so its
    outputs are lists with a tensor for each sample. Its thresholds may be given by name, as in Core ML.

    `load` makes it.

    Args:
        stages: the programs, and suppression, in order.
        inputs: names of the inputs.
        outputs: names of the outputs.
        precision: "float32" or "float16".
        package: what errors call it.

    Attributes:
        inputs: the inputs, in order, thresholds apart.
        output_names: names of the outputs, in order.
        class_labels: the labels of a classifier or a detector, else None.
        precision: "float32" or "float16".
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        inputs: Sequence[str],
        outputs: Sequence[str],
        precision: Precision,
        package: str,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.output_names = tuple(outputs)
        self.precision = precision
        self.package = package
        taken = {item.name: item for program in self._programs for item in program.inputs}
        self.inputs: tuple[ProgramInput, ...] = tuple(item for name, item in taken.items() if name in inputs)
        self._check_features(stages, inputs, outputs)
        labelled = [stage.class_labels for stage in stages if stage.class_labels]
        self.class_labels = labelled[-1] if labelled else None

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Run the pipeline.

        Returns:
            The outputs by name.

        Raises:
            PackageError: when an input has the wrong name, type or shape.
        """
        thresholds = {name: kwargs.pop(name) for name in self.threshold_names if name in kwargs}
        names = [item.name for item in self.inputs]
        values = bind(self.inputs, args, kwargs, self.package)
        features: dict[str, Any] = dict(zip(names, values, strict=True))
        for stage in self.stages.children():
            if isinstance(stage, SuppressionStage):
                iou_name, confidence_name = stage.threshold_names
                features |= stage(
                    *(features[name] for name in stage.input_names),
                    self._threshold(iou_name, thresholds, 1.0),
                    self._threshold(confidence_name, thresholds, float("inf")),
                )
            elif isinstance(stage, CoreMLProgram):
                features |= stage(**{item.name: features[item.name] for item in stage.inputs})
        return {name: features[name] for name in self.output_names}

    def decompressed_weights(self) -> dict[str, Tensor]:
        """Every floating-point weight, dense and in its stored type, by its name in its program.

        With several programs, the position of the program stands before the name.
        """
        programs = self._programs
        if len(programs) == 1:
            return programs[0].decompressed_weights()
        return {
            f"{index}.{name}": weight
            for index, program in enumerate(programs)
            for name, weight in program.decompressed_weights().items()
        }

    @property
    def _programs(self) -> list[CoreMLProgram]:
        return [stage for stage in self.stages.children() if isinstance(stage, CoreMLProgram)]

    @property
    def threshold_names(self) -> set[str]:
        """Names of the inputs that override the thresholds of non-maximum suppression."""
        return {
            name
            for stage in self.stages.children()
            if isinstance(stage, SuppressionStage)
            for name in stage.threshold_names
            if name
        }

    def _threshold(self, name: str, given: dict[str, Any], largest: float) -> float | None:
        if name not in given:
            return None
        value = float(given[name])
        if not 0 <= value <= largest:
            raise PackageError(
                f"Input {name!r} of {self.package} got {value}; valid: {'0 to 1' if largest == 1 else '0 or more'}."
            )
        return value

    def _check_features(self, stages: Sequence[Stage], inputs: Sequence[str], outputs: Sequence[str]) -> None:
        known = set(inputs)
        for position, stage in enumerate(stages):
            if isinstance(stage, SuppressionStage):
                needed = list(stage.input_names)
            else:
                needed = [item.name for item in stage.inputs]
            for name in needed:
                if name not in known:
                    raise PackageError(
                        f"Model {position} of the pipeline in {self.package} needs {name!r}, which neither an "
                        "input nor an earlier model gives."
                    )
            known.update(stage.output_names)
        for name in outputs:
            if name not in known:
                raise PackageError(
                    f"The pipeline in {self.package} returns {name!r}, which neither an input nor a model of it gives."
                )
