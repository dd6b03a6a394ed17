"""Techniques that are driven by data: found once from them, and not trained."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_compress.errors import CompressionError
from lightning_compress.methods.mechanism.matrix_form import MatrixForm
from lightning_compress.methods.mechanism.technique import Technique

_BLOCK = 512
"""Columns of second moments that are summed up together."""


class InputMoments:
    """Moments of what a weight is multiplied by, over all that came in.

    Args:
        with_second: Whether to hold the second ones, a square matrix each group, beside the first.

    Attributes:
        count: Rows that came in.
    """

    def __init__(self, *, with_second: bool) -> None:
        self.count = 0
        # Rows that had come in when the second moments were whole; by as many they are divided, or by one before.
        self._whole_at = 0
        self._with_second = with_second
        self._first: Tensor | None = None
        self._second: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Take rows in, (G, rows, d)."""
        rows = rows.float()
        first = rows.sum(dim=1)
        self._first = first if self._first is None else self._first.add_(first)
        if self._with_second:
            if self._second is None:
                self._second = rows.new_zeros((rows.shape[0], rows.shape[2], rows.shape[2]))
            # The half above the diagonal alone, in blocks: of wide layers this is most of what calibration takes.
            for start, stop in self._blocks():
                above = self._second[:, :stop, start:stop]
                above.baddbmm_(rows[:, :, :stop].mT, rows[:, :, start:stop], alpha=1 / max(self._whole_at, 1))
        self.count += rows.shape[1]

    @property
    def first(self) -> Tensor:
        """The mean of the rows, (G, d)."""
        assert self._first is not None
        return self._first / self.count

    @property
    def second(self) -> Tensor:
        """The mean of their products, (G, d, d)."""
        assert self._second is not None
        if self._whole_at != self.count:
            # In place: of wide layers it is larger than their weights.
            self._second *= max(self._whole_at, 1) / self.count
            self._whole_at = self.count
            for start, stop in self._blocks():
                self._second[:, stop:, start:stop] = self._second[:, start:stop, stop:].mT
        return self._second

    def _blocks(self) -> Iterator[tuple[int, int]]:
        assert self._second is not None
        columns = self._second.shape[-1]
        return ((start, min(start + _BLOCK, columns)) for start in range(0, columns, _BLOCK))


@dataclass(frozen=True)
class Evidence:
    """What data say of a tensor.

    Attributes:
        form: The matrix that it is; None for tensors that are none.
        inputs: What it is multiplied by; None where it is not asked for, or nothing was.
        importance: The mean squared gradient of each element, of the tensor's shape; None where there is none.
    """

    form: MatrixForm | None = None
    inputs: InputMoments | None = None
    importance: Tensor | None = None


class CalibratedTechnique(Technique, abc.ABC):
    """A technique whose state is found from data, by `calibrate`.

    In training it changes nothing; in evaluation too, until it is calibrated. Training that goes on afterwards makes it
    forget what was found.

    Args:
        tensor_name: Dotted name of the tensor.
        corrects_bias: Whether the mean of the layer's outputs is kept what it was before compression.
    """

    needs_inputs: ClassVar[bool] = False
    """Whether it looks at what the tensor is multiplied by."""

    def __init__(self, tensor_name: str, *, corrects_bias: bool = False) -> None:
        super().__init__(tensor_name)
        self.corrects_bias = corrects_bias
        self.add_switch("calibrated")

    @property
    def needs_importance(self) -> bool:
        """Whether it cannot do without squared gradients."""
        return False

    @abc.abstractmethod
    def find(self, tensor: Tensor, evidence: Evidence) -> None:
        """Find the state.

        Args:
            tensor: As it comes to this technique.
            evidence: What data say; without anything in it the form must be what it will be, whatever its quality.
        """

    @abc.abstractmethod
    def found(self, tensor: Tensor) -> Tensor:
        """The compressed tensor, once the state is found."""

    @property
    def is_calibrated(self) -> bool:
        """Whether its state was found."""
        return self.is_on("calibrated")

    @torch.no_grad()
    def calibrate(self, tensor: Tensor, evidence: Evidence) -> None:
        """Find the state, and be what was found from now on in evaluation."""
        if tensor.numel():
            self.find(tensor, evidence)
        self.switch("calibrated", True)

    def forward(self, tensor: Tensor) -> Tensor:
        """The tensor as it is in training and until data were seen; afterwards what was found."""
        if self.training or not self.is_calibrated or not tensor.numel():
            return tensor
        return self.found(tensor)

    def forget(self) -> None:
        """Be again as before calibration."""
        self.switch("calibrated", False)

    def complete(self, tensor: Tensor) -> None:
        """Refuse what saw no data."""
        if not self.is_calibrated:
            raise CompressionError(
                f"{self.tensor_name!r} ({self.label}) is compressed by what data say, and none were shown; call "
                "Compression.calibrate with data, or lightning_compress.methods.calibrate on a PreparedModule, before "
                "it is finalized"
            )

    def anticipate(self, tensor: Tensor) -> None:
        """Take the form that it will have, without data."""
        if not self.is_calibrated:
            self.calibrate(tensor, Evidence())
