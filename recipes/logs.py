"""What the recipes' fits log, and how often."""

from __future__ import annotations

import math
import warnings
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, LearningRateMonitor

_ROWS = 10
"""A fit is logged at least this often, if it has so many steps."""


class LearningRateLog(LearningRateMonitor):
    """Lightning's `LearningRateMonitor`, which does nothing where nothing is logged.

    Lightning 2.6's own ends the fit with an error then.
    """

    def on_train_start(self, trainer: L.Trainer, *arguments: Any, **keywords: Any) -> None:
        """Find the names of the learning rates."""
        if trainer.loggers:
            super().on_train_start(trainer, *arguments, **keywords)

    def on_train_batch_start(self, trainer: L.Trainer, *arguments: Any, **keywords: Any) -> None:
        """Log the rates of this step."""
        if trainer.loggers:
            super().on_train_batch_start(trainer, *arguments, **keywords)

    def on_train_epoch_start(self, trainer: L.Trainer, *arguments: Any, **keywords: Any) -> None:
        """Log the rates of this epoch."""
        if trainer.loggers:
            super().on_train_epoch_start(trainer, *arguments, **keywords)


class LogInterval(Callback):
    """Logs short fits more often than `log_every_n_steps` says, so that they too have losses and learning rates."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Look at the number of steps, if that is how long the fit is."""
        # Lightning advises a smaller interval while it prepares the data, and here is who sets it.
        warnings.filterwarnings("ignore", message=r"The number of training batches \(\d+\) is smaller")
        if stage == "fit" and trainer.max_steps > 0:
            self._shorten(trainer, trainer.max_steps)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the length of the fit, which is known now."""
        self._shorten(trainer, trainer.estimated_stepping_batches)

    def _shorten(self, trainer: L.Trainer, steps: int | float) -> None:
        interval = int(trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if math.isfinite(steps) and interval > 0:
            trainer.log_every_n_steps = min(interval, max(1, int(steps) // _ROWS))  # type: ignore[attr-defined]
