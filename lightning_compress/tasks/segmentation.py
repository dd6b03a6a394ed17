"""A class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_compress.arguments import require_flag, require_one_of
from lightning_compress.coreml.export import CoreMLExport
from lightning_compress.coreml.structure import take_apart
from lightning_compress.errors import ConfigurationError
from lightning_compress.tasks.classification import logarithm, roots, roots_of_probabilities
from lightning_compress.tasks.segmentations import draw_segmentations
from lightning_compress.tasks.task import Task, then, with_output_names

PROBABILITIES, CLASSES = "probabilities", "classes"
"""What a package may give: the probability of each class for every pixel, or the most probable class alone."""


class Segmentation(Task):
    """A network that returns one score a class for each pixel, N x classes x height x width.

    Args:
        labels: As for `Task`, the background's first.
        output: "probabilities", of each class for every pixel, N x classes x height x width; or "classes", the index of
            the most probable class, N x height x width.
        softmax: Whether the network returns logits. False for one that returns probabilities.
    """

    name: ClassVar[str] = "segmentation"

    def __init__(
        self, labels: Sequence[str] | None = None, output: str = PROBABILITIES, softmax: bool = True
    ) -> None:
        super().__init__(labels)
        require_one_of("output of the task", output, (PROBABILITIES, CLASSES))
        require_flag("softmax of the task", softmax)
        self.output = output
        self.softmax = softmax

    def interface(self, export: CoreMLExport, classes: Sequence[str]) -> CoreMLExport:
        """One output, named by what it holds."""
        return with_output_names(
            then(export, partial(_OfPixels, output=self.output, softmax=self.softmax)), self.output
        )

    def restored(self, outputs: Mapping[str, Any], expected: Sequence[Tensor]) -> list[Tensor]:
        """Scores of classes; of a package that gives classes alone, all of it is put on them."""
        (found,) = super().restored(outputs, expected)
        if self.output == CLASSES:
            found = _one_hot(found, expected[0].shape[1])
        return [logarithm(found.float()) if self.softmax else found.float()]

    def comparable(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Roots of probabilities, of each class for every pixel."""
        return [
            roots_of_probabilities(tensor, dim=1) if self.softmax else roots(tensor) for tensor in outputs
        ]

    def picture(
        self,
        images: Tensor,
        outputs: Mapping[str, Any],
        classes: Sequence[str],
        *,
        threshold: float,
        columns: int | None = None,
    ) -> Tensor | None:
        """Each image, the heat map of the class that is seen most in it, and all classes laid over it."""
        (found,) = super().restored(outputs, ())
        probabilities = (
            _one_hot(found, max(len(classes), int(found.max()) + 1)) if found.dim() == 3 else found
        )
        names = list(classes) or [str(index) for index in range(probabilities.shape[1])]
        # Three pictures an image.
        return draw_segmentations(images / 255, probabilities.float(), names, columns=columns or 2)


def _one_hot(classes: Tensor, count: int) -> Tensor:
    return nn.functional.one_hot(classes.long(), count).movedim(-1, 1).float()


class _OfPixels(nn.Module):
    """A network with a softmax, or the choice of a class, behind its scores."""

    def __init__(self, module: nn.Module, output: str, softmax: bool) -> None:
        super().__init__()
        self.module = module
        self.output = output
        self.softmax = softmax

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        tensors = take_apart(self.module(*inputs, **named), type(self.module).__name__)
        if len(tensors) != 1 or tensors[0].dim() != 4:
            raise ConfigurationError(
                "task=segmentation needs a network that returns scores, N x classes x height x width; "
                f"{type(self.module).__name__} returns {[tuple(tensor.shape) for tensor in tensors]}"
            )
        if self.output == CLASSES:
            return tensors[0].argmax(dim=1).to(torch.int32)
        return tensors[0].softmax(dim=1) if self.softmax else tensors[0]
