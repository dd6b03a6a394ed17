"""What a fit had logged when it was stopped, ahead of what it logs when it goes on."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import CSVLogger

_FILE = "metrics.csv"


def logged_rows(folder: Path, steps: int) -> list[dict[str, str]]:
    """The rows that a fit has logged in its first steps, whose checkpoint it goes on from.

    Args:
        folder: Of the fit.
        steps: Optimizer steps of the checkpoint.
    """
    path = folder / _FILE
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [{key: value for key, value in row.items() if key and value} for row in csv.DictReader(file)]
    return [row for row in rows if row.get("step", "").isdecimal() and int(row["step"]) < steps]


def carry_on_log(trainer: L.Trainer, rows: list[dict[str, str]]) -> None:
    """Give a Trainer's `CSVLogger` the rows of the fit that it goes on with; Lightning 2.6 would delete them."""
    if not rows or not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Experiment logs directory .* exists and is not empty")
                writer = logger.experiment
            writer.metrics.extend(rows)
