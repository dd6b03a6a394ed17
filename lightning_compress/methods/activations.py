"""Inputs of layers rounded to integers, so that Core ML computes with integers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_compress.methods.fake_quantizer import FakeQuantizer, Rounding
from lightning_compress.methods.mechanism.technique import InputTechnique
from lightning_compress.methods.milestones import Milestones, OnMilestones


class Activation(OnMilestones, InputTechnique):
    """Rounds an input of a layer to integers times one scale.

    Args:
        rounding: How to round; without groups.
        milestones: When.
    """

    def __init__(self, rounding: Rounding, milestones: Milestones) -> None:
        super().__init__()
        self.milestones = milestones
        self.quantizer = FakeQuantizer(
            rounding, (1,), observing=milestones.observes(0), quantizing=milestones.quantizes(0)
        )
        self._watching = False
        # Plain numbers, so that a trace holds them as constants.
        self._settled: tuple[float, int] | None = None

    @property
    def label(self) -> str:
        """That inputs are integers."""
        return "int8 inputs"

    def forward(self, value: Tensor) -> Tensor:
        """The input rounded, once the milestones say so and something was observed."""
        integers = self.quantizer.rounding.integers
        if self._settled is not None:
            return torch.fake_quantize_per_tensor_affine(
                value, *self._settled, integers.lowest, integers.highest
            )
        observe = self._watching or (self.training and self.quantizer.is_on("observing"))
        rounded: Tensor = self.quantizer(value, observe=observe)
        return rounded

    def commit(self) -> None:
        """Take up the range that was observed."""
        self.quantizer.commit()

    def shared(self) -> Iterator[Tensor]:
        """The scale that follows from what each process observed."""
        return self.quantizer.shared()

    def advance(self, step: int) -> None:
        """Pass the milestones that are due."""
        self.quantizer.switch("observing", self.milestones.observes(step))
        self.quantizer.switch("quantizing", self.milestones.quantizes(step))

    @property
    def is_blind(self) -> bool:
        """Whether no value was observed, and so no scale is known."""
        return not self.quantizer.is_on("known")

    def watch(self, active: bool) -> None:
        """While active, observe in evaluation too."""
        self._watching = active

    def complete(self) -> None:
        """Round from now on, by the scale that is known."""
        self.quantizer.settle()
        scale, zero_point = self.quantizer.parameters_for()
        self._settled = (float(scale), int(zero_point))
