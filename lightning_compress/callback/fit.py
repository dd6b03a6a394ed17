"""What the callback asks of a Trainer; the one place that knows attributes which Lightning 2.6 does not declare."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn


def rehearses(trainer: L.Trainer) -> bool:
    """Whether the fit only rehearses the code (`fast_dev_run`)."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def fits(trainer: L.Trainer) -> bool:
    """Whether the Trainer was asked to fit, validation within the fit included."""
    return trainer.state.fn == TrainerFn.FITTING


def will_log(trainer: L.Trainer) -> bool:
    """Whether what this batch logs will reach the loggers: Lightning's own condition, which counts batches."""
    interval = int(trainer.log_every_n_steps)  # type: ignore[attr-defined]
    return interval > 0 and (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % interval == 0


def callbacks_of(trainer: L.Trainer) -> list[Callback]:
    """The callbacks of the Trainer, in the order in which they are called."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def loaded_checkpoint(trainer: L.Trainer) -> dict[str, Any]:
    """The checkpoint that the Trainer is taking weights and progress from, while it does so; else nothing."""
    return trainer._checkpoint_connector._loaded_checkpoint


def complete_resume(trainer: L.Trainer) -> None:
    """Mend two ways in which Lightning 2.6 resumes inexactly; call it when training starts.

    - Whoever asks for `estimated_stepping_batches` before the fit loop is restored, as `configure_optimizers` does for
      a one-cycle schedule, makes it build resumable loaders without the state that the checkpoint holds.
    - After a checkpoint that was written at the last batch of an epoch it does not count the epoch that follows as
      started, so that a checkpoint within that epoch, resumed in turn, trains too many batches.
    """
    loop = trainer.fit_loop
    epoch_loop = loop.epoch_loop
    if (
        loop.restarted_mid_epoch
        and epoch_loop.restarted_on_train_batch_end
        and epoch_loop.batch_progress.is_last_batch
    ):
        loop.reset_restart_stage()
    if loop.restarting and loop._combined_loader_states_to_load:
        loop._combined_loader = None
        loop.setup_data()


def fit_steps(trainer: L.Trainer, pl_module: L.LightningModule, epochs: int | None) -> int | float:
    """Batches of the fit that end in a step of an optimizer.

    Args:
        trainer: The Trainer, in a fit.
        pl_module: What it fits.
        epochs: The epochs that the user asked for, without the one that `StochasticWeightAveraging` adds.

    Returns:
        The number of batches; infinite or negative where Lightning cannot know it.
    """
    steps: int | float = trainer.estimated_stepping_batches
    if trainer.max_steps >= 0 and not pl_module.automatic_optimization:
        # Lightning counts the steps of all optimizers here, and batches everywhere else.
        steps = min(steps, trainer.max_steps // max(len(trainer.optimizers), 1))
    batches = trainer.num_training_batches
    if epochs is not None and epochs > 0 and math.isfinite(batches):
        steps = min(steps, math.ceil(batches / trainer.accumulate_grad_batches) * epochs)
    return steps
