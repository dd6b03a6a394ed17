"""The validation data in two parts: one that a search looks at, and one that it is judged by."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader, IterableDataset

from lightning_compress.errors import ConfigurationError

LEAST_SAMPLES = 20
"""Fewer validation samples than this are not divided: the metric of so few says nothing."""

_GROUPS = 10
"""Into how many groups a part is divided for standard errors, at most."""

_LOADERS = ("val_dataloader", "test_dataloader")

_SEED = 0
"""Of the division, so that every search of the same data divides them alike."""


class Part:
    """Some of the validation data of a data module, in batches of its own.

    Args:
        data: The data module, set up; it is not changed.
        batches: Indices of samples, batch by batch, of each of its loaders.
    """

    def __init__(self, data: L.LightningDataModule, batches: dict[str, list[list[list[int]]]]) -> None:
        self._data = data
        self._batches = batches

    @property
    def samples(self) -> int:
        """How many samples it holds."""
        first = next(iter(self._batches.values()))
        return sum(len(batch) for loader in first for batch in loader)

    def batches_of(self, samples: int) -> int:
        """How many of its batches hold so many samples."""
        first = next(iter(self._batches.values()))[0]
        return max(1, -(-samples // len(first[0])))

    def singly(self, most: int) -> Part:
        """Samples of this part, evenly from all of it, each a batch of its own.

        Args:
            most: How many of each loader.
        """
        chosen = {}
        for name, loaders in self._batches.items():
            samples = [[index for batch in batches for index in batch] for batches in loaders]
            chosen[name] = [
                [[found[place * len(found) // count]] for place in range(count)]
                for found in samples
                for count in [min(most, len(found))]
            ]
        return Part(self._data, chosen)

    def as_data(self) -> L.LightningDataModule:
        """A data module that validates, and tests, with this part; all else is as in the original."""
        return self._with(self._batches)

    def without_each_group(self) -> Iterator[L.LightningDataModule]:
        """The part without its first group of batches, without its second, and so on: the delete-a-group jackknife."""
        groups = range(self._groups)
        for left_out in groups:
            yield self._with(self._of_groups([group for group in groups if group != left_out]))

    def each_group(self) -> Iterator[L.LightningDataModule]:
        """The first group of batches alone, the second, and so on: about as many samples in each."""
        for group in range(self._groups):
            yield self._with(self._of_groups([group]))

    @property
    def _groups(self) -> int:
        return min(_GROUPS, min(len(batches) for loaders in self._batches.values() for batches in loaders))

    def _of_groups(self, chosen: Collection[int]) -> dict[str, list[list[list[int]]]]:
        groups = self._groups
        return {
            name: [
                [batch for index, batch in enumerate(batches) if index % groups in chosen]
                for batches in loaders
            ]
            for name, loaders in self._batches.items()
        }

    def _with(self, batches: dict[str, list[list[list[int]]]]) -> L.LightningDataModule:
        data = copy.copy(self._data)
        for name, loaders in batches.items():
            setattr(data, name, _Loading(self._data, name, loaders).make)
        return data


class _Loading:
    """Makes the loaders of a part anew for each run, as a data module does."""

    def __init__(self, data: L.LightningDataModule, name: str, batches: Sequence[list[list[int]]]) -> None:
        self._data = data
        self._name = name
        self._batches = batches

    def make(self) -> Any:
        """As `val_dataloader` of a data module."""
        given = getattr(self._data, self._name)()
        loaders = _as_list(given, self._name)
        made = [
            DataLoader(loader.dataset, batch_sampler=batches, collate_fn=loader.collate_fn)
            for loader, batches in zip(loaders, self._batches, strict=True)
        ]
        return made if isinstance(given, list | tuple) else made[0]


def divided(data: L.LightningDataModule, share: float) -> tuple[Part, Part]:
    """The part that a search looks at, and the part that it never sees.

    Args:
        data: Set up, with a `val_dataloader` or a `test_dataloader` over data sets that can be indexed.
        share: Of the samples that are the search's.

    Raises:
        ConfigurationError: The loaders cannot be divided, or hold too few samples.
    """
    searched: dict[str, list[list[list[int]]]] = {}
    judged: dict[str, list[list[list[int]]]] = {}
    for name in _LOADERS:
        if not is_overridden(name, data, L.LightningDataModule):
            continue
        for loader in _as_list(getattr(data, name)(), name):
            count = len(loader.dataset)  # type: ignore[arg-type]
            if count < LEAST_SAMPLES:
                raise ConfigurationError(
                    f"{name} of {type(data).__name__} has {count} samples; a search divides them into what it looks at "
                    f"and what it is judged by, and needs {LEAST_SAMPLES}"
                )
            order = torch.randperm(count, generator=torch.Generator().manual_seed(_SEED)).tolist()
            cut = min(max(round(share * count), 1), count - 1)
            for found, indices in ((searched, order[:cut]), (judged, order[cut:])):
                found.setdefault(name, []).append(_batches(sorted(indices), loader.batch_size or 1))
    if not searched:
        raise ConfigurationError(
            f"{type(data).__name__} has neither a val_dataloader nor a test_dataloader to measure packages with"
        )
    return Part(data, searched), Part(data, judged)


def _batches(indices: list[int], size: int) -> list[list[int]]:
    # Small enough for groups of whole batches to be left out.
    size = max(1, min(size, len(indices) // _GROUPS))
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _as_list(loaders: Any, name: str) -> list[DataLoader[Any]]:
    found = list(loaders) if isinstance(loaders, list | tuple) else [loaders]
    for loader in found:
        if not isinstance(loader, DataLoader) or loader.batch_size is None:
            raise ConfigurationError(
                f"{name} gives a {type(loader).__name__}; a search divides the validation data, and needs torch's "
                "DataLoader with a batch_size"
            )
        if isinstance(loader.dataset, IterableDataset):
            raise ConfigurationError(
                f"{name} reads an IterableDataset ({type(loader.dataset).__name__}), which has no order to divide; "
                "give a data set with __len__ and __getitem__"
            )
    return found
