"""A module that keeps tensors of its forward is finalized all the same, at the end and from checkpoints."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from torch import Tensor, nn

from lightning_compress import (
    Compression,
    CoreMLExport,
    DKMPalettization,
    LinearQuantization,
    MagnitudePruning,
)
from tests.cases.fitting import Training, of_shape, palettized


class Auxiliary(nn.Module):
    """Leaves an auxiliary loss and its features behind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 32)
        self.head = nn.Linear(32, 32)
        self.aux: Tensor | None = None
        self.features: dict[str, list[Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        self.aux = y.square().mean()
        self.features = {"layer": [y]}
        return self.head(torch.relu(y))


class WithAuxiliaryLoss(Training):
    """Trains with the loss that the network has left behind."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        assert self.model.aux is not None
        return loss + self.model.aux


METHODS = {
    "palettized": lambda: [palettized()],
    "pruned": lambda: [MagnitudePruning(target_sparsity=0.5)],
    "quantized": lambda: [LinearQuantization(milestones=[0, 0, 2, -1])],
}


@pytest.mark.parametrize("name", METHODS)
def test_it_is_finalized_and_exported(fit, tmp_path, name):
    training = WithAuxiliaryLoss(Auxiliary(), of_shape(32), steps=3)
    export = CoreMLExport(tmp_path / "net.mlpackage", card=False)
    fit.run(training, Compression(*METHODS[name](), module="model", export=export)).check_right(package=5e-2)


def test_it_is_fitted_again_with_the_same_callback(fit):
    training = WithAuxiliaryLoss(Auxiliary(), of_shape(32), steps=3)
    compression = Compression(palettized(), module="model")
    fit.run(training, compression)
    fit.run(training, compression)
    assert compression.finalized.layer.weight.unique().numel() <= 16


def test_it_is_loaded_from_a_checkpoint(fit, tmp_path):
    compression = Compression(DKMPalettization(n_bits=4, weight_threshold=0), module="model")
    training = WithAuxiliaryLoss(Auxiliary(), of_shape(32), steps=3)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(tmp_path),
        callbacks=[compression, ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)],
    )
    trainer.fit(training)
    fresh = WithAuxiliaryLoss(Auxiliary(), of_shape(32), steps=3)
    restored = Compression.load_from_checkpoint(tmp_path / "last.ckpt", fresh)
    fresh.model(torch.ones(1, 32))
    assert torch.equal(restored.finalize().layer.weight, compression.finalized.layer.weight)


@pytest.mark.parametrize(
    "average", [lambda: EMAWeightAveraging(decay=0.5), lambda: StochasticWeightAveraging(1e-3, 0.5)]
)
@pytest.mark.filterwarnings("ignore:.*swa:UserWarning")
def test_it_is_averaged(fit, average: Any):
    training = WithAuxiliaryLoss(Auxiliary(), of_shape(32), steps=3)
    compression = Compression(palettized(), module="model")
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[compression, average()],
    )
    trainer.fit(training)
    assert compression.finalized.layer.weight.unique().numel() <= 16
