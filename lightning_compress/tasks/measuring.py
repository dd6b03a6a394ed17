"""The metric that a LightningModule's own validation, or its test, logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities.model_helpers import is_overridden
from torchmetrics import Metric

from lightning_compress.callback.notices import without_notices
from lightning_compress.errors import ConfigurationError, did_you_mean


def measure(
    module: L.LightningModule,
    data: L.LightningDataModule,
    metric: str,
    folder: Path,
    *,
    fast_dev_run: bool | int = False,
    limit_batches: int | float | None = None,
    shows_progress: bool = True,
) -> float:
    """Validate, or test, on this machine, in this process alone.

    Args:
        module: Logs the metric in its validation, or in its test.
        data: Where the batches come from.
        metric: Which one, by the name under which it is logged, such as "val/map".
        folder: Where a Trainer may write.
        fast_dev_run: As Lightning's.
        limit_batches: As Lightning's `limit_val_batches`.
        shows_progress: Whether to show a bar.

    Raises:
        ConfigurationError: The metric is not logged.
    """
    for part in module.modules():
        if isinstance(part, Metric):
            # Other processes of a DDP fit do not take part; `sync_on_compute` is read when a metric is made.
            part.distributed_available_fn = _alone
    logged: dict[str, Any] = {}
    for kind in _kinds(module, data, metric):
        with without_notices():
            trainer = L.Trainer(
                accelerator="cpu",
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                fast_dev_run=fast_dev_run,
                limit_val_batches=limit_batches,
                limit_test_batches=limit_batches,
                default_root_dir=str(folder),
                callbacks=[RichProgressBar()] if shows_progress else [],
                enable_progress_bar=shows_progress,
            )
            run = trainer.validate if kind == "validation" else trainer.test
            run(module, datamodule=data, verbose=False)
        if metric in trainer.callback_metrics:
            return float(trainer.callback_metrics[metric])
        logged |= trainer.callback_metrics
    raise ConfigurationError(
        f"recipe.metric={metric!r} is not among what {type(module).__name__} logs in validation or test"
        f"{did_you_mean(metric, logged)} Logged are {', '.join(sorted(logged)) or 'none'}; what is logged in training "
        "alone cannot be measured on a package."
    )


def _kinds(module: L.LightningModule, data: L.LightningDataModule, metric: str) -> list[str]:
    """How the module can be measured, the more likely way first."""
    found = [
        kind
        for kind, step, loader in (
            ("validation", "validation_step", "val_dataloader"),
            ("test", "test_step", "test_dataloader"),
        )
        if is_overridden(step, module) and is_overridden(loader, data, L.LightningDataModule)
    ]
    if not found:
        raise ConfigurationError(
            f"{type(module).__name__} cannot be measured: it needs a validation_step that logs "
            f"recipe.metric={metric!r}, and {type(data).__name__} a val_dataloader (or test_step and test_dataloader)"
        )
    return sorted(found, key=lambda kind: not metric.startswith(kind[:3]))


def _alone() -> bool:
    return False
