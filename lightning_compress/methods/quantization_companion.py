"""What quantization does to a module beside its weights and the inputs of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from lightning_compress.methods.activations import Activation
from lightning_compress.methods.batch_norm_freezing import BatchNormFreezing
from lightning_compress.methods.mechanism.method import Companion
from lightning_compress.methods.mechanism.schedule import FitLength


class QuantizationCompanion(Companion):
    """The freezing of batch norm, and rounding within attention.

    Args:
        freezing: The freezing, or None.
        operands: Techniques on operands of attention's products.
    """

    def __init__(self, freezing: BatchNormFreezing | None, operands: Sequence[Activation]) -> None:
        super().__init__()
        self.freezing = freezing
        self.operands = nn.ModuleList(operands)

    def _parts(self) -> Iterator[BatchNormFreezing | Activation]:
        if self.freezing is not None:
            yield self.freezing
        for operand in self.operands:
            assert isinstance(operand, Activation)
            yield operand

    def resolve_schedule(self, length: FitLength) -> None:
        """Turn fractions of the fit into steps."""
        for part in self._parts():
            part.resolve_schedule(length)

    @property
    def last_step(self) -> int:
        """The optimizer step after which the last milestone has taken effect."""
        return max((part.last_step for part in self._parts()), default=0)

    def unfinished(self, step: int) -> str | None:
        """Which milestones are still to come, or None."""
        return next((reason for part in self._parts() if (reason := part.unfinished(step)) is not None), None)

    def commit(self) -> None:
        """Take up the ranges that were observed."""
        for part in self._parts():
            part.commit()

    def shared(self) -> Iterator[Tensor]:
        """The scales that follow from what each process observed."""
        for part in self._parts():
            yield from part.shared()

    def advance(self, step: int) -> None:
        """Pass the milestones that are due."""
        for part in self._parts():
            part.advance(step)

    def remove(self, module: nn.Module) -> None:
        """Take the hooks that freeze batch norm out of a copy; attention goes on rounding."""
        if self.freezing is not None:
            self.freezing.remove(module)
