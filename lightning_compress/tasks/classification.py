"""One class an image, a text, a sound: probabilities of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.arguments import require_flag
from lightning_compress.coreml.export import CoreMLExport
from lightning_compress.coreml.structure import take_apart
from lightning_compress.errors import ConfigurationError
from lightning_compress.tasks.task import Task, then, with_labels, with_output_names

_LEAST = 1e-12
"""What a probability counts as least."""


class Classification(Task):
    """A network that returns one score a class, N x classes; its package gives probabilities, and a label where known.

    Args:
        labels: As for `Task`.
        softmax: Whether the network returns logits, so that a softmax is put behind it. False for one that returns
            probabilities.
    """

    name = "classification"

    def __init__(self, labels: Sequence[str] | None = None, softmax: bool = True) -> None:
        super().__init__(labels)
        require_flag("softmax of the task", softmax)
        self.softmax = softmax

    def interface(self, export: CoreMLExport, classes: Sequence[str]) -> CoreMLExport:
        """Probabilities, with the labels of a Core ML classifier where they are known."""
        export = with_labels(then(export, partial(_OneOutput, softmax=self.softmax)), classes)
        # The outputs of a classifier with labels have names of their own.
        return export if export.class_labels is not None else with_output_names(export, "probabilities")

    def restored(self, outputs: Mapping[str, Any], expected: Sequence[Tensor]) -> list[Tensor]:
        """Scores: logarithms of probabilities are logits whose softmax they are."""
        # The label is no tensor.
        (probabilities,) = super().restored(outputs, expected)
        return [logarithm(probabilities.float()) if self.softmax else probabilities]

    def comparable(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Roots of probabilities."""
        return [
            roots_of_probabilities(tensor, dim=-1) if self.softmax else roots(tensor) for tensor in outputs
        ]


def roots_of_probabilities(logits: Tensor, dim: int) -> Tensor:
    """Roots of the probabilities whose logits are given.

    Distributions are as far from each other as these are, by Hellinger's distance, whose derivatives are those of the
    Fisher information: what a sure answer is made of may move farther than what a close one hangs on.

    Args:
        logits: Of classes.
        dim: The axis of the classes.
    """
    return (logits.log_softmax(dim) / 2).exp()


def roots(probabilities: Tensor) -> Tensor:
    """Roots of probabilities, with derivatives that are finite where one is 0."""
    return probabilities.clamp_min(_LEAST).sqrt()


def logarithm(probabilities: Tensor) -> Tensor:
    """Logits whose softmax is `probabilities`, finite also where half precision has made a 0 of one."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


class _OneOutput(nn.Module):
    """A network with the softmax behind its one output, whatever that lies in."""

    def __init__(self, module: nn.Module, softmax: bool) -> None:
        super().__init__()
        self.module = module
        self.softmax = softmax

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        tensors = take_apart(self.module(*inputs, **named), type(self.module).__name__)
        if len(tensors) != 1:
            raise ConfigurationError(
                f"task=classification needs a network with one output, scores of classes, and "
                f"{type(self.module).__name__} returns {len(tensors)} tensors; choose task=tensors, or let the network "
                "return its scores alone"
            )
        return tensors[0].softmax(dim=-1) if self.softmax else tensors[0]
