"""The weight of a layer as the matrix that it multiplies what comes in by.

Convolutions multiply patches of their inputs, those of several groups in each group by a matrix of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_compress.methods.mechanism.layers import Layout


@dataclass(frozen=True)
class MatrixForm:
    """How a weight is a matrix of R rows, one for each output, and d columns.

    Attributes:
        shape: The weight's shape.
        layout: What its axes mean.
        groups: Number G of equal runs of rows with inputs of their own.
    """

    shape: torch.Size
    layout: Layout
    groups: int = 1

    @property
    def is_turned(self) -> bool:
        """Whether inputs come first in the weight."""
        return self.layout.output_axis != 0

    @property
    def rows(self) -> int:
        """Number R of rows."""
        return self.groups * self.shape[1] if self.is_turned else self.shape[0]

    @property
    def columns(self) -> int:
        """Number d of columns."""
        if not self.is_turned:
            return math.prod(self.shape[1:])
        return self.shape[0] // self.groups * math.prod(self.shape[2:])

    def matrix(self, weight: Tensor) -> Tensor:
        """The matrix, (R, d); of anything that broadcasts against the weight likewise."""
        weight = weight.expand(self.shape)
        if not self.is_turned:
            return weight.reshape(self.shape[0], -1)
        parts = weight.reshape(self.groups, -1, self.shape[1], math.prod(self.shape[2:]))
        return parts.transpose(1, 2).reshape(self.groups * self.shape[1], -1)

    def weight(self, matrix: Tensor) -> Tensor:
        """The weight of a matrix; undoes `matrix`."""
        if not self.is_turned:
            return matrix.reshape(self.shape)
        kernel = math.prod(self.shape[2:])
        parts = matrix.reshape(self.groups, self.shape[1], -1, kernel)
        return parts.transpose(1, 2).reshape(self.shape)

    def kernel_first(self) -> Tensor:
        """An order of columns in which the input channels at one place of the kernel follow each other, (d,)."""
        kernel = math.prod(self.shape[2:])
        return torch.arange(self.columns).reshape(-1, kernel).t().reshape(-1)
