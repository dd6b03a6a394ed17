"""What makes a fit end the same however often it was stopped and taken up again."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from lightning_compress.callback.fit import (
    batches_of_epoch,
    complete_resume,
    loses_nothing,
    pass_over,
    renew_batches,
)
from lightning_compress.commands.jobs.random_states import (
    random_states,
    restore_random_states,
    seed_epoch,
)
from lightning_compress.errors import ConfigurationError
from lightning_compress.stopping import Stopped, Stops

_KEY = "random_states"
"""Where a checkpoint holds the random states of all processes."""

STOPPED = "stopped.ckpt"
"""What a signal leaves among the checkpoints of a fit."""

_ENDED = "ended.ckpt"
"""What the end of a fit leaves there if no other callback has written one."""


class Continuation(Checkpoint):
    """Stops a fit where nothing is lost, and lets it go on as if it had never been stopped.

    The random states of an epoch follow from the seed, the epoch and the process. A checkpoint within an epoch holds
    them as they were; going on from it, the batches of the epoch that were trained before are read and dropped, so that
    whatever the loader is, it draws what it would have drawn.

    As a `Checkpoint` it is called after all other callbacks.

    Args:
        seed: Of the fit.
        folder: Of the fit; checkpoints go to `checkpoints` in it.
        stops: Tells of a signal.

    Attributes:
        steps: Optimizer steps that the fit has taken.
    """

    def __init__(self, seed: int, folder: Path, stops: Stops) -> None:
        self.seed = seed
        self.folder = folder / "checkpoints"
        self.stops = stops
        self.steps = 0
        self._states: list[dict[str, Any]] | None = None
        self._is_saved = False

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random states of all processes, and bring to the disk what was logged until now."""
        checkpoint[_KEY] = random_states(trainer.strategy.root_device)
        for logger in trainer.loggers:
            logger.save()

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the random states until batches are there."""
        self._states = checkpoint.get(_KEY)

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals back from the Trainer."""
        self.stops.install()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on within an epoch."""
        self.stops.install()
        self.stops.waits = True
        complete_resume(trainer)
        self.steps = trainer.global_step
        batches = batches_of_epoch(trainer)
        if not batches:
            return
        seed_epoch(self.seed, trainer.current_epoch, trainer.global_rank)
        renew_batches(trainer)
        pass_over(trainer, batches)
        # The number of processes may have changed, and with it all else.
        if self._states is not None and trainer.global_rank < len(self._states):
            restore_random_states(self._states[trainer.global_rank], trainer.strategy.root_device)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Seed the epoch."""
        seed_epoch(self.seed, trainer.current_epoch, trainer.global_rank)
        renew_batches(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop before the step that would follow: what the last one has logged is written by now."""
        if self._is_saved:
            self._stop()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint after this step, if a signal has come to any process."""
        self.steps = trainer.global_step
        if self._is_asked(trainer) and loses_nothing(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop after this epoch."""
        if self._is_asked(trainer):
            self._save(trainer)
            self._stop()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See to it that what follows the last step can be taken up again."""
        newest = newest_checkpoint(self.folder) if trainer.is_global_zero else None
        is_saved = newest is not None and newest[1] == trainer.global_step
        if not trainer.strategy.broadcast(is_saved):
            trainer.save_checkpoint(self.folder / _ENDED, weights_only=False)
        self.stops.waits = False
        if self._is_asked(trainer):
            self._stop()

    def _is_asked(self, trainer: L.Trainer) -> bool:
        asked = self.stops.received is not None
        return (
            asked if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(asked, all=False)
        )

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.folder / STOPPED, weights_only=False)
        self._is_saved = True

    def _stop(self) -> None:
        # Where the signal came to another process alone, nobody has told which one it was.
        raise Stopped(self.stops.received or signal.SIGTERM)


def newest_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The checkpoint of the most optimizer steps among those that a fit has left in a folder, and how many those are.

    Raises:
        ConfigurationError: One of them cannot be read.
    """
    found = []
    for path in sorted(folder.rglob("*.ckpt")):
        try:
            # Mapped: the tensors are not read.
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            raise ConfigurationError(
                f"{str(path)!r} cannot be read as a checkpoint ({_first_line(error)}); remove it, and the job "
                "goes on from the one before, or begins this fit anew"
            ) from error
        # One of weights alone has no optimizer to go on with.
        if isinstance(checkpoint, dict) and "optimizer_states" in checkpoint:
            found.append((int(checkpoint["global_step"]), path.stat().st_mtime_ns, path))
    if not found:
        return None
    steps, _, path = max(found)
    return path, steps


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
