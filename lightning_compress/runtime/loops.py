"""How long the loops of a program may run: what a package says may never end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_compress.errors import PackageError
from lightning_compress.runtime.program import Step

MAX_ITERATIONS = 100_000
"""Iterations that all loops of one call may take together, unless `load` is told otherwise: some seconds."""

_STATEFUL = ("read_state", "coreml_update_state")


class Iterations:
    """Counts the iterations of one call.

    Args:
        most: How many all loops of the call may take together.
    """

    def __init__(self, most: int = MAX_ITERATIONS) -> None:
        self.most = most
        self._count = 0

    def count(self, loop: Step, before: Sequence[Any], after: Sequence[Any]) -> None:
        """Count an iteration, which is about to be followed by another.

        Args:
            loop: The loop.
            before: Its variables before the iteration.
            after: Its variables now.

        Raises:
            PackageError: The loop can never end, or has not ended within the iterations allowed.
        """
        self._count += 1
        # One that changes nothing is followed by none that does, so that it is enough to look now and then.
        if self._count & (self._count - 1) == 0 and _follows_from_variables(loop) and _same(before, after):
            raise PackageError(
                f"operation {loop.name!r} of type {loop.op_type!r} never ends: an iteration leaves its variables as "
                "they are, and its condition holds"
            )
        if self._count >= self.most:
            raise PackageError(
                f"operation {loop.name!r} of type {loop.op_type!r} has not ended when the loops of this call had taken "
                f"{self.most:,} iterations; if they are that long, load the package with a larger max_iterations"
            )


def _follows_from_variables(step: Step) -> bool:
    """Whether what a loop does depends on its variables and on constants alone."""
    return all(
        not inner.op_type.startswith("random_")
        and inner.op_type not in _STATEFUL
        and _follows_from_variables(inner)
        for block in step.blocks
        for inner in block.steps
    )


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return before.dtype is after.dtype and torch.equal(before, after)
    if isinstance(before, Sequence) and isinstance(after, Sequence):
        return len(before) == len(after) and all(map(_same, before, after))
    return bool(before is after)
