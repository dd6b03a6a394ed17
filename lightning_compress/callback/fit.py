"""What the callback asks of a Trainer; the one place that knows attributes which Lightning 2.6 does not declare."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.fabric.utilities.types import _Stateful
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher
from lightning.pytorch.loops.loop import _Loop
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


def training_loader(trainer: L.Trainer) -> Any:
    """What the fit draws its batches from: its loader where it is one, else all loaders combined."""
    combined = trainer.fit_loop._combined_loader
    assert combined is not None
    loader = combined.iterables
    return _Combined(combined) if isinstance(loader, Mapping | list | tuple) else loader


class _Combined:
    """The batches of several loaders, anew each time."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        for batch, _, _ in self._loader:
            yield batch


def data_module(trainer: L.Trainer) -> L.LightningDataModule | None:
    """The data module of the fit, if it has one."""
    found: L.LightningDataModule | None = getattr(trainer, "datamodule", None)
    return found


def loaded_checkpoint(trainer: L.Trainer) -> dict[str, Any]:
    """The checkpoint that the Trainer is taking weights and progress from, while it does so; else nothing."""
    return trainer._checkpoint_connector._loaded_checkpoint


def complete_resume(trainer: L.Trainer) -> None:
    """Mend three ways in which Lightning 2.6 resumes inexactly; call it when training starts.

    - Whoever asks for `estimated_stepping_batches` before the fit loop is restored, as `configure_optimizers` does for
      a one-cycle schedule, makes it build resumable loaders without the state that the checkpoint holds.
    - After a checkpoint that was written at the last batch of an epoch it does not count the epoch that follows as
      started, so that a checkpoint within that epoch, resumed in turn, trains too many batches.
    - After a checkpoint that was written at the end of an epoch, a fit whose length is given in steps ends that epoch
      once more.
    """
    loop = trainer.fit_loop
    epoch_loop = loop.epoch_loop
    if (
        loop.restarted_mid_epoch
        and epoch_loop.restarted_on_train_batch_end
        and epoch_loop.batch_progress.is_last_batch
    ):
        loop.reset_restart_stage()
    if loop.restarted_on_epoch_end:
        # What Lightning itself does where the length is given in epochs.
        _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]
        loop.epoch_progress.increment_completed()
        loop.reset_restart_stage()
    if loop.restarting and loop._combined_loader_states_to_load:
        loop._combined_loader = None
        loop.setup_data()


def loses_nothing(trainer: L.Trainer) -> bool:
    """Whether a fit that goes on from a checkpoint of the batch that was just trained goes on exactly.

    It does not while gradients are accumulated. And before a validation or the end of an epoch, Lightning 2.6 leaves
    out what would have followed.
    """
    loop = trainer.fit_loop.epoch_loop
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return not (
        loop.batch_progress.is_last_batch or loop._should_accumulate() or loop._should_check_val_fx(fetcher)
    )


def batches_of_epoch(trainer: L.Trainer) -> int:
    """How many batches of its epoch a fit that goes on from a checkpoint has had; ask after `complete_resume`."""
    loop = trainer.fit_loop
    return int(loop.epoch_loop.batch_progress.current.ready) if loop.restarted_mid_epoch else 0


def renew_batches(trainer: L.Trainer) -> None:
    """Begin to read the epoch's batches, with the random state as it is now.

    Lightning 2.6 does so itself before most epochs, but not before the first one of a fit, where it has begun long
    before. And it tells a distributed sampler too late which epoch a fit goes on in.
    """
    loop = trainer.fit_loop
    if not _are_plain(trainer):
        return
    assert loop._combined_loader is not None
    for loader in loop._combined_loader.flattened:
        _set_sampler_epoch(loader, trainer.current_epoch)
        if getattr(loader, "persistent_workers", False):
            # Their random states follow from all epochs before.
            loader._iterator = None
    follows = trainer.current_epoch > 0 and not loop.is_resuming and not loop.epoch_loop.restarting
    if not follows:
        assert loop._data_fetcher is not None
        iter(loop._data_fetcher)


def pass_over(trainer: L.Trainer, batches: int) -> None:
    """Read batches that were trained before, and drop them."""
    fetcher = trainer.fit_loop._data_fetcher
    if not _are_plain(trainer) or fetcher is None:
        return
    for _ in range(batches):
        next(fetcher)
    # The loop adds what it has trained before.
    fetcher.fetched -= batches


def _are_plain(trainer: L.Trainer) -> bool:
    """Whether all loaders are ones that hold no state of their own, and the loop does the reading."""
    loop = trainer.fit_loop
    if loop._combined_loader is None or isinstance(loop._data_fetcher, _DataLoaderIterDataFetcher):
        return False
    return not any(isinstance(loader, _Stateful) for loader in loop._combined_loader.flattened)


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
