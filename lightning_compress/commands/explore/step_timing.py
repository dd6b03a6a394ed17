"""What an optimizer step of a fit takes, from a few of them."""

from __future__ import annotations

import tempfile
import time
import warnings
from statistics import median
from typing import Any

import lightning as L

from lightning_compress.callback.notices import without_notices
from lightning_compress.commands.jobs.building import COMPRESSED_FIT, Building

_STEPS = 4


class _Clock(L.Callback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.times.append(time.perf_counter())


def seconds_of_step(building: Building) -> float:
    """The median of a few plain steps of a module that is thrown away, the first left out.

    Args:
        building: Of the job; its data are set up.
    """
    clock = _Clock()
    trainer_config = building.config.trainer
    accumulated = int(building.config[COMPRESSED_FIT].trainer.get("accumulate_grad_batches", 1))
    with tempfile.TemporaryDirectory() as folder, without_notices(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            accelerator=trainer_config.get("accelerator", "auto"),
            devices=1,
            precision=trainer_config.get("precision", None),
            max_steps=_STEPS,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[clock],
        )
        trainer.fit(building.module(COMPRESSED_FIT), datamodule=building.data)
    steps = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
    return (median(steps) if steps else 0.0) * accumulated
