"""Checkpoints of the recipes' fits."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_compress.callback.fit import loses_nothing, rehearses


class FitCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, from whose files a fit goes on exactly, and whose `last.ckpt` holds its end.

    Within an epoch it writes where nothing is lost: lightning 2.6, going on from the batch before a validation, leaves
    the validation out, and forgets gradients that were being accumulated. What is due there is written after the next
    batch, or at the end of the epoch.

    With `every_n_train_steps`, lightning's own leaves `last.ckpt` at the last multiple of it: a fit of 1200 steps
    that saves every 500 ends with the weights of step 1000, which are not those that its package was made of.
    """

    _is_due = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write what is due, where a fit can go on from it exactly."""
        # With a monitor, what is due before a validation waits for it anyway.
        self._is_due = self.monitor is None and not loses_nothing(trainer)
        if not self._is_due:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what was due at the epoch's last batch, too."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._is_due:
            self._is_due = False
            super().on_train_batch_end(trainer, pl_module, None, None, 0)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the state that the fit ends in, unless that is saved already."""
        if self.save_last and not rehearses(trainer) and self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
