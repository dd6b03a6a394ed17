"""Palettes whose entries fall together are told of while a fit runs."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch import nn

from lightning_compress import Compression, DKMPalettization


class Lit(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return self.network(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(**keys: object) -> None:
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(16, 64)), batch_size=8)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=4,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Compression(DKMPalettization(n_bits=2, **keys))],
    )
    trainer.fit(Lit(), data)


@pytest.mark.parametrize(
    "keys", [{}, {"cluster_dim": 4}, {"enable_per_channel_scale": True, "palett_tau": 5.0}]
)
def test_a_temperature_that_leaves_one_value_is_told_once_with_the_remedy(keys):
    with pytest.warns(UserWarning, match="fallen together") as told:
        fit(**{"palett_tau": 0.5, **keys})
    (message,) = [str(each.message) for each in told if "fallen together" in str(each.message)]
    assert "2 weights" in message
    assert "0.weight" in message
    assert "a lower palett_tau than" in message


def test_the_remedy_of_a_relative_temperature_is_a_lower_one():
    with pytest.warns(UserWarning, match="fallen together.*a lower relative_tau than 50 keeps entries apart"):
        fit(relative_tau=50.0)


@pytest.mark.parametrize("keys", [{}, {"cluster_dim": 4}])
def test_palettes_that_stay_apart_are_not_told_of(keys):
    fit(**keys)
