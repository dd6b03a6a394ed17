"""What is changed in Lightning's progress bar, and whether it still needs to be."""

from __future__ import annotations

import pytest
from lightning.pytorch.callbacks import RichProgressBar

from lightning_compress.callback.progress_bar import FitProgressBar


@pytest.fixture
def description(make_trainer):
    """What a bar says of the first epoch of a fit."""

    def describe(bar, **length):
        trainer = make_trainer(bar, enable_progress_bar=True, **length)
        bar.setup(trainer, None, "fit")
        return bar._get_train_description(0)

    return describe


def test_a_fit_of_steps_has_no_last_epoch(description):
    assert description(FitProgressBar(), max_epochs=-1, max_steps=7) == "Epoch 0 (fit of 7 steps)"


def test_a_fit_without_end_has_none_either(description):
    assert description(FitProgressBar(), max_epochs=-1) == "Epoch 0"


def test_a_fit_of_epochs_is_told_as_lightning_tells_it(description):
    assert description(FitProgressBar(), max_epochs=3) == description(RichProgressBar(), max_epochs=3)


def test_lightning_still_counts_to_epochs_below_zero(description):
    told = description(RichProgressBar(), max_epochs=-1, max_steps=7)
    assert "/-2" in told, "Lightning has fixed this; `FitProgressBar` is needed for its note alone"
