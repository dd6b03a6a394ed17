"""Validation data in two parts."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_compress.errors import ConfigurationError
from lightning_compress.explore.parts import divided


class _Numbers(L.LightningDataModule):
    def __init__(self, count: int = 100) -> None:
        super().__init__()
        self.count = count

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.arange(self.count)), batch_size=16)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return "seen"


class _Endless(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(4))


class _Stream(L.LightningDataModule):
    def val_dataloader(self) -> Any:
        return DataLoader(_Endless(), batch_size=4)


class _Several(_Numbers):
    def val_dataloader(self) -> Any:
        return [super().val_dataloader(), DataLoader(TensorDataset(torch.arange(40)), batch_size=4)]


def _samples(loader: DataLoader[Any]) -> list[int]:
    batches: list[Tensor] = [batch for (batch,) in loader]
    return torch.cat(batches).tolist()


def test_every_sample_is_in_one_part_and_the_division_is_always_the_same() -> None:
    searched, judged = divided(_Numbers(), 0.3)
    one, other = (_samples(part.as_data().val_dataloader()) for part in (searched, judged))
    assert sorted(one + other) == list(range(100))
    assert (len(one), len(other)) == (30, 70) == (searched.samples, judged.samples)
    assert one != list(range(30))
    again, _ = divided(_Numbers(), 0.3)
    assert _samples(again.as_data().val_dataloader()) == one


def test_hooks_of_the_data_stay_and_the_data_themselves_are_not_changed() -> None:
    data = _Numbers()
    searched, _ = divided(data, 0.5)
    assert searched.as_data().on_after_batch_transfer(None, 0) == "seen"
    assert len(_samples(data.val_dataloader())) == 100


def test_each_group_is_left_out_once() -> None:
    _, judged = divided(_Numbers(), 0.5)
    whole = set(_samples(judged.as_data().val_dataloader()))
    left_out = [whole - set(_samples(data.val_dataloader())) for data in judged.without_each_group()]
    assert len(left_out) == 10
    assert set().union(*left_out) == whole
    assert sum(map(len, left_out)) == len(whole)


def test_several_loaders_are_divided_one_by_one() -> None:
    searched, judged = divided(_Several(), 0.5)
    assert [len(_samples(loader)) for loader in searched.as_data().val_dataloader()] == [50, 20]
    assert [len(_samples(loader)) for loader in judged.as_data().val_dataloader()] == [50, 20]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_Numbers(19), "val_dataloader of _Numbers has 19 samples"),
        (_Stream(), "reads an IterableDataset"),
        (L.LightningDataModule(), "neither a val_dataloader nor a test_dataloader"),
    ],
)
def test_data_that_cannot_be_divided_are_told(data: L.LightningDataModule, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        divided(data, 0.5)


def test_single_samples_come_evenly_from_the_whole_part() -> None:
    searched, _ = divided(_Several(), 0.5)
    singly = searched.singly(10)
    first, second = singly.as_data().val_dataloader()
    assert [len(batch) for (batch,) in first] == [1] * 10
    whole, other = (_samples(loader) for loader in searched.as_data().val_dataloader())
    assert _samples(first) == whole[::5]
    assert _samples(second) == other[::2]
    assert searched.singly(1000).samples == searched.samples
