from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest


@pytest.fixture
def trainer() -> Callable[..., L.Trainer]:
    """A quiet trainer on the CPU."""

    def build(**settings: Any) -> L.Trainer:
        return L.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **settings,
        )

    return build
