"""`last.ckpt` holds the state that a fit ends in."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from torch.utils.data import DataLoader

from lightning_compress.recipes.checkpoint import FitCheckpoint


@pytest.fixture
def fit(make_trainer):
    """A few steps of a network of one layer, three an epoch; returns it as it ended."""

    def run(callback, steps):
        module = BoringModel()
        trainer = make_trainer(callback, enable_checkpointing=True, limit_val_batches=0, max_steps=steps)
        trainer.fit(module, train_dataloaders=DataLoader(RandomDataset(32, 3)))
        return module

    return run


def last_step(folder):
    return torch.load(folder / "last.ckpt", weights_only=False)["global_step"]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_a_fit_of_any_length_ends_in_last_ckpt(fit, steps, tmp_path):
    module = fit(FitCheckpoint(tmp_path, save_last=True, every_n_train_steps=2), steps)
    assert last_step(tmp_path) == steps
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())


def test_lightning_itself_still_stops_at_a_multiple_of_its_interval(fit, tmp_path):
    # When this fails, lightning has fixed it and FitCheckpoint can go.
    fit(ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=2), 3)
    assert last_step(tmp_path) == 2


def test_without_last_nothing_is_added(fit, tmp_path):
    fit(FitCheckpoint(tmp_path, every_n_train_steps=2), 3)
    assert [file.name for file in tmp_path.glob("*.ckpt")] == ["epoch=0-step=2.ckpt"]


def test_the_jobs_use_it():
    with initialize_config_module("lightning_compress.conf", version_base="1.3"):
        config = compose("train")
    assert isinstance(instantiate(config.callbacks.checkpoint), FitCheckpoint)
