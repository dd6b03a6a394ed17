"""How well a package or a module does the job: a recipe's metric on its validation data."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from torchmetrics import Metric

from lightning_compress.errors import ConfigurationError, did_you_mean


def measure(
    evaluation: L.LightningModule,
    data: L.LightningDataModule,
    metric: str,
    folder: Path,
    *,
    fast_dev_run: bool | int = False,
    limit_batches: int | float | None = None,
) -> float:
    """Test on this machine, in this process alone.

    Args:
        evaluation: Logs the metric in its test.
        data: Where the test's batches come from.
        metric: Which one, such as "map", logged as "test/map".
        folder: Where a Trainer may write.
        fast_dev_run: As Lightning's.
        limit_batches: As Lightning's `limit_test_batches`.

    Raises:
        ConfigurationError: The metric is not logged.
    """
    for part in evaluation.modules():
        if isinstance(part, Metric):
            # Other processes of a DDP fit do not take part; `sync_on_compute` is read when a metric is made.
            part.distributed_available_fn = _alone
    with without_notices():
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            fast_dev_run=fast_dev_run,
            limit_test_batches=limit_batches,
            default_root_dir=str(folder),
            callbacks=[RichProgressBar()],
        )
        trainer.test(evaluation, datamodule=data, verbose=False)
    logged = {str(name).removeprefix("test/"): value for name, value in trainer.callback_metrics.items()}
    if metric not in logged:
        raise ConfigurationError(
            f"recipe.metric={metric!r} is not among what {type(evaluation).__name__} logs in a test"
            f"{did_you_mean(metric, logged)} Logged are {', '.join(sorted(logged)) or 'none'}."
        )
    return float(logged[metric])


def _alone() -> bool:
    return False


@contextmanager
def without_notices() -> Iterator[None]:
    """Lightning introduces itself for each Trainer; once a fit is enough."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
