"""Checkpoints of the recipes' fits."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_compress.callback.fit import rehearses


class FitCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, whose `last.ckpt` is also written at the end of the fit.

    With `every_n_train_steps`, lightning 2.6's own leaves `last.ckpt` at the last multiple of it: a fit of 1200 steps
    that saves every 500 ends with the weights of step 1000, which are not those that its package was made of. A fit
    that goes on from a `last.ckpt` written within an epoch begins the next one.
    """

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the state that the fit ends in, unless that is saved already."""
        if self.save_last and not rehearses(trainer) and self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
