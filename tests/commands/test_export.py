"""`lightning-compress export`: the package of a checkpoint is that of the fit which wrote it."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_compress import Compression, DKMPalettization
from lightning_compress.commands.export import run
from lightning_compress.commands.recipe import Recipe
from lightning_compress.errors import ConfigurationError

SMALL = (
    "recipe=ssd_resnet18",
    "data.image_size=64",
    "data.train_images=8",
    "data.val_images=2",
    "data.batch_size=4",
)


def weights_of(package: Path) -> bytes:
    return next(package.rglob("weight.bin")).read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_package_of_a_checkpoint_is_that_of_its_fit(configure, tmp_path):
    checkpoint, package = tmp_path / "last.ckpt", tmp_path / "exported.mlpackage"
    config = configure(*SMALL, f"ckpt={checkpoint}", f"path={package}", command="export")
    recipe = Recipe(config)
    recipe.data.setup("fit")
    module = recipe.module()
    compression = Compression(
        DKMPalettization(n_bits=2),
        module=config.recipe.network,
        export=recipe.export(tmp_path / "fit.mlpackage", module),
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=2,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[compression, ModelCheckpoint(tmp_path, save_last=True)],
    )
    trainer.fit(module, datamodule=recipe.data)
    exported = run(config)
    assert exported.path == package
    assert weights_of(package) == weights_of(tmp_path / "fit.mlpackage")


def test_a_missing_checkpoint_is_named(configure, tmp_path):
    config = configure(*SMALL, f"ckpt={tmp_path / 'none.ckpt'}", command="export")
    with pytest.raises(ConfigurationError, match="there is no checkpoint at .*none.ckpt"):
        run(config)


def test_the_command_says_what_it_needs(configure):
    with pytest.raises(ConfigurationError, match="ckpt is empty; give a checkpoint"):
        run(configure(*SMALL, command="export"))
