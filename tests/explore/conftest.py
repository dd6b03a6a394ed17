"""A small classifier of digits, and searches of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lightning_compress.explore import search
from lightning_compress.explore.record import Exploration
from tests.conftest import DigitData, DigitModule

FEW = {"forms": ["palettize_4bit", "palettize_1bit"], "rungs": ["kmeans"], "metric": "accuracy"}
"""What searches are asked where nothing else matters."""


@pytest.fixture(scope="module")
def fitted() -> DigitModule:
    """A classifier that has learned the digits."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module = DigitModule()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=8,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=DigitData(train=768))
    module.trainer = None  # type: ignore[assignment]
    return module.eval()


@pytest.fixture
def explore(fitted: DigitModule, tmp_path: Path) -> Callable[..., Exploration]:
    """Searches that classifier in the test's folder."""

    def run(**asked: Any) -> Exploration:
        given = {"folder": tmp_path / "found", "data": DigitData(), **FEW, **asked}
        return search(fitted, given.pop("data"), **given)

    return run
