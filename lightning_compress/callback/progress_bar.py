"""A progress bar that says how long a fit is, whichever way its length was given."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import ProgressColumn, Task
from rich.table import Column
from rich.text import Text


class FitProgressBar(RichProgressBar):
    """Lightning's `RichProgressBar`, with a note beside it, and without "Epoch 0/-2".

    Lightning 2.6 shows the last epoch as `max_epochs - 1`, which is -2 for a fit whose length is given in steps.

    Attributes:
        note: Shown behind the bar.
    """

    note = ""

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        """Lightning's columns, and the note."""
        columns: list[Any] = super().configure_columns(trainer)
        return [*columns, _NoteColumn(self)]

    def _get_train_description(self, current_epoch: int) -> str:
        if self.trainer.max_epochs is not None and self.trainer.max_epochs >= 0:
            return str(super()._get_train_description(current_epoch))
        steps = self.trainer.max_steps
        return f"Epoch {current_epoch} (fit of {steps} steps)" if steps >= 0 else f"Epoch {current_epoch}"


class _NoteColumn(ProgressColumn):
    def __init__(self, bar: FitProgressBar) -> None:
        super().__init__(Column(no_wrap=True))
        self._bar = bar

    def render(self, task: Task) -> Text:
        """The note, beside the bar of the training alone."""
        return Text(self._bar.note if task.id == self._bar.train_progress_bar_id else "")
