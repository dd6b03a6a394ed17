"""Ranges of tensors, and the scales and zero points that follow from them, by the formulas of torch's observers."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_EPS = torch.finfo(torch.float32).eps
"""The smallest scale."""

Range = tuple[Tensor, Tensor]
"""Smallest and largest value of each group of elements."""


class Observer(enum.Enum):
    """How the ranges of several tensors become one; the names are coremltools'."""

    MOVING_AVERAGE_MIN_MAX = "moving_average_min_max"
    """Moving a hundredth of the way to each new range (torch's `MovingAverageMinMaxObserver`)."""
    MIN_MAX = "min_max"
    """The range that holds all of them (torch's `MinMaxObserver`)."""
    EMA_MIN_MAX = "ema_min_max"
    """Nine parts of what was, one part of what is new (coremltools' `EMAMinMaxObserver`)."""

    def combine(self, known: Range, new: Range) -> Range:
        """The range after `new` was observed; `known` is (+infinity, -infinity) where nothing was before."""
        return self._combine(known[0], new[0], torch.minimum), self._combine(known[1], new[1], torch.maximum)

    def _combine(self, known: Tensor, new: Tensor, outer: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        if self is Observer.MIN_MAX:
            return outer(known, new)
        if self is Observer.MOVING_AVERAGE_MIN_MAX:
            averaged = known + 0.01 * (new - known)
        else:
            averaged = known * 0.9 + new * (1.0 - 0.9)
        return torch.where(known.isinf(), new, averaged)


@dataclass(frozen=True)
class IntegerType:
    """The integers that a value is rounded to.

    Attributes:
        n_bits: 4 or 8.
        signed: Whether half of them are negative.
    """

    n_bits: int
    signed: bool

    @classmethod
    def of(cls, name: str) -> IntegerType:
        """The type of a name such as "qint8" or "quint4"."""
        return cls(int(name[-1]), not name.startswith("qu"))

    @property
    def lowest(self) -> int:
        """The smallest integer."""
        return -(1 << (self.n_bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """The largest integer."""
        return self.lowest + (1 << self.n_bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric scheme: 0, or 128 of 8 bits and 7 of 4 where nothing is negative."""
        if self.signed:
            return 0
        return 128 if self.n_bits == 8 else (self.lowest + self.highest) // 2

    def symmetric(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point where zero is in the middle of the range."""
        furthest = torch.maximum(-low.clamp(max=0), high.clamp(min=0))
        scale = (furthest / ((self.highest - self.lowest) / 2)).clamp(min=_EPS)
        return scale, torch.full_like(scale, self.middle, dtype=torch.int32)

    def affine(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point where the range, widened to hold zero, is used up."""
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = ((high - low) / (self.highest - self.lowest)).clamp(min=_EPS)
        zero_point = self.lowest - torch.round(low / scale).to(torch.int32)
        return scale, zero_point.clamp(self.lowest, self.highest)


@dataclass(frozen=True)
class Groups:
    """Which elements of a tensor share a scale.

    Attributes:
        axis: Each index along it has a scale of its own; None for one scale for all.
        block_axis: Within these, every `block_size` elements along this axis have a scale of their own.
        block_size: Elements in such a block.
    """

    axis: int | None = None
    block_axis: int = 1
    block_size: int | None = None

    def parameter_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of scales for a tensor of `shape`: of its rank, the number of groups along each axis."""
        groups = [1] * len(shape)
        if self.axis is not None:
            groups[self.axis] = shape[self.axis]
            if self.block_size is not None:
                groups[self.block_axis] = shape[self.block_axis] // self.block_size
        return tuple(groups)

    def range_of(self, tensor: Tensor) -> Range:
        """The range of each group, of the shape of its scales."""
        if self.axis is None:
            low, high = torch.aminmax(tensor)
        else:
            low, high = torch.aminmax(self.rows(tensor), dim=1)
        shape = self.parameter_shape(tensor.shape)
        return low.reshape(shape), high.reshape(shape)

    def rows(self, tensor: Tensor) -> Tensor:
        """The tensor with a row for each group, in the order of the scales."""
        blocks, axes = self._blocks(tensor)
        return blocks.movedim(axes, list(range(len(axes)))).flatten(0, len(axes) - 1).flatten(1)

    def from_rows(self, rows: Tensor, like: Tensor) -> Tensor:
        """Undo `rows` for a tensor like `like`."""
        blocks, axes = self._blocks(like)
        moved = blocks.movedim(axes, list(range(len(axes)))).shape
        return rows.reshape(moved).movedim(list(range(len(axes))), axes).reshape(like.shape)

    def broadcast(self, parameter: Tensor, like: Tensor) -> Tensor:
        """Scales, repeated so that they broadcast against a tensor like `like`."""
        if self.block_size is None:
            return parameter
        return parameter.repeat_interleave(self.block_size, dim=self.block_axis)

    def _blocks(self, tensor: Tensor) -> tuple[Tensor, list[int]]:
        """The tensor with its blocks along an axis of their own, and the axes that number groups, ascending."""
        assert self.axis is not None
        if self.block_size is None:
            return tensor, [self.axis]
        blocks = torch.unflatten(tensor, self.block_axis, (-1, self.block_size))
        axis = self.axis if self.axis < self.block_axis else self.axis + 1
        return blocks, sorted((axis, self.block_axis))
