"""Where a fit stands, as far as a compression must know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class FitProgress:
    """Where a fit stands.

    Attributes:
        steps_before: Optimizer steps of earlier fits with the same callback, after which fractions of this fit begin.
        is_resumed: Whether the fit goes on from a checkpoint.
        epochs: The epochs that the user asked for: `StochasticWeightAveraging` adds one that steps no optimizer.
        global_step: The Trainer's count of optimizer steps when it was last looked at.
    """

    steps_before: int = 0
    is_resumed: bool = False
    epochs: int | None = None
    global_step: int = 0

    def took_step(self, global_step: int) -> bool:
        """Whether an optimizer has stepped since the last look: with gradient accumulation not every batch ends in one.

        With several optimizers the count advances by more than one, for one step of the training.
        """
        stepped, self.global_step = global_step != self.global_step, global_step
        return stepped
