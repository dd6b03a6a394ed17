"""Metrics that no search can go by are told."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_compress.errors import ConfigurationError
from lightning_compress.explore import search
from tests.conftest import DigitData, DigitModule
from tests.explore.conftest import FEW


class _NotANumber(DigitModule):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])
        self.log("accuracy", torch.tensor(math.nan), batch_size=len(batch[0]))

    test_step = validation_step


class _OfMany(DigitModule):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.seen = len(batch[0]) + (self.seen if batch_idx else 0)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        if self.seen < 15:
            raise ValueError(f"{self.seen} samples are too few")

    on_test_epoch_end = on_validation_epoch_end


def test_a_metric_that_few_samples_have_not_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"too few. Set explore\.margin=0 to take") as caught:
        search(_OfMany(), DigitData(), folder=tmp_path, max_drop=1.0, **FEW)
    assert "ValueError: 10 samples are too few" in str(caught.value)
    assert search(_OfMany(), DigitData(), folder=tmp_path, max_drop=1.0, margin=0, **FEW).chosen is not None


def test_a_metric_that_is_no_number_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="accuracy of the float16 package is NaN"):
        search(_NotANumber(), DigitData(), folder=tmp_path, max_drop=0.1, **FEW)
