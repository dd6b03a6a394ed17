"""The loss of a module's own training step, outside of a fit."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress.callback.losses import TrainingLoss, single_examples
from lightning_compress.errors import ConfigurationError


class _Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.model(batch[0]).square().sum()
        self.log("loss", loss)
        return {"loss": loss + self.current_epoch + self.global_step}


class _ByHand(_Module):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class _Speechless(_Module):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        pass


class _Scaled(L.LightningDataModule):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] * 2]


def test_a_step_that_logs_and_asks_for_its_epoch_gives_a_loss_without_a_fit() -> None:
    loss = TrainingLoss(_Module())([torch.randn(1, 4)])
    assert loss.requires_grad


def test_nothing_is_random_and_no_statistics_move() -> None:
    module = _Module()
    loss = TrainingLoss(module)
    batch = [torch.randn(1, 4)]
    before = module.model[1].running_mean.clone()
    assert loss(batch) == loss(batch)
    assert torch.equal(module.model[1].running_mean, before)


def test_the_hooks_of_the_data_are_called_as_in_a_fit() -> None:
    module = _Module()
    batch = [torch.randn(1, 4)]
    assert TrainingLoss(module, _Scaled())(batch) == TrainingLoss(module)([batch[0] * 2])


def test_modules_without_a_loss_are_told_what_is_missing() -> None:
    with pytest.raises(ConfigurationError, match="_ByHand optimizes by hand"):
        TrainingLoss(_ByHand())
    with pytest.raises(ConfigurationError, match="LightningModule has no training_step"):
        TrainingLoss(L.LightningModule())
    with pytest.raises(ConfigurationError, match="returns NoneType without a loss"):
        TrainingLoss(_Speechless())([torch.randn(1, 4)])


def _values(loader: Any, count: int, seed: int) -> list[float]:
    return [float(batch[0]) for batch in single_examples(loader, count, seed)]


def test_single_examples_are_drawn_without_replacement_and_the_same_by_the_same_seed() -> None:
    loader = DataLoader(TensorDataset(torch.arange(10.0)), batch_size=4)
    drawn = _values(loader, 10, seed=1)
    assert sorted(drawn) == list(range(10))
    assert _values(loader, 5, seed=1) == drawn[:5]
    assert _values(loader, 10, seed=2) != drawn


def test_drawing_leaves_the_random_numbers_of_the_program_as_they_were() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    _values(DataLoader(TensorDataset(torch.arange(10.0))), 4, seed=1)
    assert torch.rand(1) == expected


def test_batches_that_the_data_make_themselves_are_taken_as_they_are() -> None:
    batches: list[list[Tensor]] = [[torch.tensor([1.0, 2.0])]]
    assert [batch[0].tolist() for batch in single_examples(batches, 4, seed=0)] == [[1.0, 2.0]]
