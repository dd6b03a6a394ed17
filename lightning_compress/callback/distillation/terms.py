"""How far a tensor of the student is from the teacher's: the losses that have a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_compress.errors import ConfigurationError

Term = Callable[[Tensor, Tensor], Tensor]
"""From a tensor of the student and the teacher's of the same shape to a scalar."""

SOFT_LABELS, SQUARED_ERROR, COSINE = "soft_labels", "squared_error", "cosine"

NAMES = (SOFT_LABELS, SQUARED_ERROR, COSINE)
"""The losses that have a name."""


@dataclass(frozen=True)
class SoftLabels:
    """The divergence of the student's class probabilities from the teacher's (Hinton et al., arXiv 1503.02531).

    KL(softmax(teacher / T), softmax(student / T)) T^2, summed over the classes and averaged over all else. The factor
    keeps the size of the gradient the same at every temperature.

    Attributes:
        temperature: T; the higher, the more the order of unlikely classes counts.
        class_axis: The axis of the classes; None for the second axis of tensors of four and more dimensions, such as
            N x C x H x W, and the last one of others.
    """

    temperature: float
    class_axis: int | None = None

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The divergence.

        Raises:
            ConfigurationError: There is no such axis, or only one class along it.
        """
        axis = self._axis(student)
        guess = (student / self.temperature).log_softmax(axis)
        target = (teacher / self.temperature).log_softmax(axis)
        divergence = nn.functional.kl_div(guess, target, reduction="none", log_target=True)
        return divergence.sum(axis).mean() * self.temperature**2

    def _axis(self, student: Tensor) -> int:
        dimensions = student.dim()
        axis = (1 if dimensions >= 4 else -1) if self.class_axis is None else self.class_axis
        shape = tuple(student.shape)
        if dimensions < 2 or not -dimensions <= axis < dimensions:
            raise ConfigurationError(
                f"soft labels need an axis of classes, and class_axis={self.class_axis!r} is none of an output of "
                f"shape {shape}; valid are axes of tensors of two and more dimensions, or other losses: "
                f"{SQUARED_ERROR}, {COSINE}"
            )
        if shape[axis] < 2:
            raise ConfigurationError(
                f"soft labels need two classes and more, and an output of shape {shape} has {shape[axis]} along axis "
                f"{axis}; set class_axis, or take another loss for it: {SQUARED_ERROR}, {COSINE}"
            )
        return axis


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared error in variances of the teacher's tensor: 1 is what its mean alone would leave."""
    error = nn.functional.mse_loss(student, teacher)
    variance = teacher.var(correction=0)
    # A tensor of equal values has no scale of its own.
    return error / torch.where(variance > 0, variance, torch.ones_like(variance))


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine of the angle between both, of each sample as one vector, averaged over samples."""
    if student.dim() < 2:
        student, teacher = student.reshape(1, -1), teacher.reshape(1, -1)
    return (1 - nn.functional.cosine_similarity(student.flatten(1), teacher.flatten(1))).mean()


def named_term(name: str, temperature: float, class_axis: int | None) -> Term:
    """The loss of a name.

    Args:
        name: One of `NAMES`.
        temperature: Of soft labels.
        class_axis: Of soft labels.
    """
    terms: dict[str, Term] = {
        SOFT_LABELS: SoftLabels(temperature, class_axis),
        SQUARED_ERROR: squared_error,
        COSINE: cosine,
    }
    return terms[name]
