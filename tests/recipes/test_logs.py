"""Short fits log losses and learning rates, and fits without a logger log nothing."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress.recipes.logs import LearningRateLog, LogInterval


class Line(L.LightningModule):
    """Fits a line."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.layer(batch[0]).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, logger: Any, **settings: Any) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=[LearningRateLog(), LogInterval()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
        **settings,
    )
    trainer.fit(Line(), DataLoader(TensorDataset(torch.rand(6, 2)), batch_size=1))
    return trainer


def rows(folder: Path, column: str) -> list[str]:
    with (folder / "metrics.csv").open() as file:
        return [row[column] for row in csv.DictReader(file) if row[column]]


@pytest.mark.parametrize(
    ("settings", "logged"), [({"max_steps": 5}, 5), ({"max_epochs": 1}, 6), ({"max_steps": 40}, 10)]
)
def test_a_short_fit_has_losses_and_learning_rates(tmp_path, settings, logged):
    fit(tmp_path, CSVLogger(tmp_path, name="", version=""), **settings)
    assert len(rows(tmp_path, "train/loss")) == logged
    # The rate is also logged at the start of each epoch.
    assert len(rows(tmp_path, "lr-SGD")) >= logged


def test_a_long_fit_is_logged_as_its_trainer_says(tmp_path):
    trainer = fit(tmp_path, CSVLogger(tmp_path, name="", version=""), max_steps=40, log_every_n_steps=2)
    assert trainer.log_every_n_steps == 2
    assert len(rows(tmp_path, "train/loss")) == 20


def test_a_fit_without_a_logger_is_no_error(tmp_path):
    fit(tmp_path, False, max_epochs=1)
    assert list(tmp_path.iterdir()) == []
