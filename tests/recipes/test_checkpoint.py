"""`last.ckpt` holds the state that a fit ends in."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from torch.utils.data import DataLoader

from lightning_compress.recipes.checkpoint import FitCheckpoint


def fit(callback, folder, **options):
    """A few steps of a network of one layer; returns it as it ended."""
    module = BoringModel()
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[callback],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(module, train_dataloaders=DataLoader(RandomDataset(32, 3)))
    return module


def last_step(folder):
    return torch.load(folder / "last.ckpt", weights_only=False)["global_step"]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_a_fit_of_any_length_ends_in_last_ckpt(steps, tmp_path):
    module = fit(FitCheckpoint(tmp_path, save_last=True, every_n_train_steps=2), tmp_path, max_steps=steps)
    assert last_step(tmp_path) == steps
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())


def test_lightning_itself_still_stops_at_a_multiple_of_its_interval(tmp_path):
    # When this fails, lightning has mended it and FitCheckpoint can go.
    fit(ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=2), tmp_path, max_steps=3)
    assert last_step(tmp_path) == 2


def test_without_last_nothing_is_added(tmp_path):
    fit(FitCheckpoint(tmp_path, every_n_train_steps=2), tmp_path, max_steps=3)
    assert [file.name for file in tmp_path.glob("*.ckpt")] == ["epoch=0-step=2.ckpt"]


def test_the_jobs_use_it():
    with initialize_config_module("lightning_compress.conf", version_base="1.3"):
        config = compose("train")
    assert isinstance(instantiate(config.callbacks.checkpoint), FitCheckpoint)
