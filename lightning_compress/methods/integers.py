"""Weights rounded to integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_compress.methods.fake_quantizer import FakeQuantizer, Rounding
from lightning_compress.methods.mechanism.stored import StoredIntegers, StoredTensor
from lightning_compress.methods.mechanism.technique import Stage, Technique
from lightning_compress.methods.milestones import Milestones, OnMilestones
from lightning_compress.methods.weight_ranges import integer_label


class Integers(OnMilestones, Technique):
    """Rounds a weight to integers times a scale, for the whole of it, each channel or each block.

    Zeros stay exactly zero: a zero point is an integer.

    Args:
        tensor_name: Dotted name of the weight.
        shape: Its shape.
        rounding: How to round.
        milestones: When.
    """

    stage = Stage.VALUES

    def __init__(
        self, tensor_name: str, shape: Sequence[int], rounding: Rounding, milestones: Milestones
    ) -> None:
        super().__init__(tensor_name)
        self.milestones = milestones
        self.quantizer = FakeQuantizer(
            rounding,
            rounding.groups.parameter_shape(shape),
            observing=milestones.observes(0),
            quantizing=milestones.quantizes(0),
        )

    @property
    def label(self) -> str:
        """The bits, and what shares a scale."""
        rounding = self.quantizer.rounding
        return integer_label(rounding.integers, rounding.groups)

    def forward(self, tensor: Tensor) -> Tensor:
        """The weight rounded, once the milestones say so."""
        quantizer = self.quantizer
        rounded: Tensor = quantizer(
            tensor,
            observe=self.training and quantizer.is_on("observing"),
            unknown=lambda: quantizer.rounding.groups.range_of(tensor.detach().float()),
        )
        return rounded

    def begin(self, tensor: Callable[[], Tensor]) -> None:
        """Let learned scales start from the range of the weight, which observing only makes more exact."""
        quantizer = self.quantizer
        if quantizer.scale is not None and quantizer.zero_point is not None and not quantizer.is_on("known"):
            with torch.no_grad():
                scale, zero_point = quantizer.rounding.parameters(
                    *quantizer.rounding.groups.range_of(tensor().float())
                )
                quantizer.scale.copy_(scale)
                quantizer.zero_point.copy_(zero_point)

    def commit(self) -> None:
        """Take up the range that was observed."""
        self.quantizer.commit()

    def shared(self) -> Iterator[Tensor]:
        """The scales that follow from what each process observed."""
        return self.quantizer.shared()

    def advance(self, step: int, tensor: Callable[[], Tensor]) -> None:
        """Pass the milestones that are due."""
        self.quantizer.switch("observing", self.milestones.observes(step))
        self.quantizer.switch("quantizing", self.milestones.quantizes(step))

    def complete(self, tensor: Tensor) -> None:
        """Round from now on, by the range of the weight if none was observed."""
        self.quantizer.settle(lambda: self.quantizer.rounding.groups.range_of(tensor.detach().float()))

    def store(self, stored: StoredTensor) -> StoredTensor:
        """As integers, with a scale and a zero point for each group."""
        scale, zero_point = self.quantizer.parameters_for()
        return StoredTensor(
            sparse=stored.sparse,
            integers=StoredIntegers(
                self.quantizer.rounding.integers.n_bits, scale, zero_point if bool(zero_point.any()) else None
            ),
        )

    def report(self, tensor: Tensor, compressed: Tensor) -> dict[str, Any]:
        """Scale, zero point, and the share of the weight that is stored as the smallest or largest integer."""
        quantizer, groups = self.quantizer, self.quantizer.rounding.groups
        known = None if quantizer.is_on("known") else groups.range_of(tensor.float())
        scale, zero_point = quantizer.parameters_for(known)
        integers = quantizer.rounding.integers
        numbers = torch.round(tensor.float() / groups.broadcast(scale, tensor)) + groups.broadcast(
            zero_point, tensor
        )
        at_ends = (numbers <= integers.lowest) | (numbers >= integers.highest)
        return {
            "scale": scale,
            "zero_point": zero_point,
            "at the ends": float(at_ends.float().mean()),
        }
