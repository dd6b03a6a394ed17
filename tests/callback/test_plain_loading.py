"""Checkpoints are read whatever objects their hyperparameters are, and no code of these runs."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from lightning_compress import Compression, DKMPalettization
from lightning_compress.callback.plain_loading import load_plainly
from lightning_compress.errors import ConfigurationError


class Color(enum.Enum):
    RED = 1


class Names(list):
    """A list of a class of its own."""


class Table(dict):
    """A dictionary of a class of its own."""


@dataclass
class Options:
    depth: int = 1


MADE: list[str] = []


def make_loud() -> Loud:
    MADE.append("loud")
    return Loud()


class Loud:
    """Says when it is made again from a file."""

    def __reduce__(self) -> Any:
        return make_loud, ()


OBJECTS: list[Any] = [
    pathlib.Path("x"),
    OmegaConf.create({"a": [1, {"b": 2}]}),
    np.float64(1.0),
    np.int64(3),
    np.arange(3),
    Color.RED,
    Names(["a"]),
    Table(a=1),
    Options(),
    nn.functional.relu,
    nn.ReLU,
    nn.Linear(2, 2),
    datetime.datetime(2026, 1, 1),
    argparse.Namespace(a=1),
    collections.defaultdict(list, {1: [2]}),
    collections.deque([1], maxlen=3),
    {1, 2},
    1j,
    torch.float16,
]


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("value", OBJECTS, ids=[type(value).__name__ for value in OBJECTS])
def test_what_is_plain_is_read_beside_any_object(tmp_path, value, mapped):
    path = tmp_path / "some.ckpt"
    torch.save({"state_dict": {"w": torch.ones(2)}, "hyper_parameters": {"x": value, "y": 5}}, path)
    loaded = load_plainly(path, mapped=mapped)
    assert torch.equal(loaded["state_dict"]["w"], torch.ones(2))
    assert loaded["hyper_parameters"]["y"] == 5


def test_no_code_of_a_checkpoint_runs(tmp_path):
    torch.save({"x": Loud()}, tmp_path / "some.ckpt")
    load_plainly(tmp_path / "some.ckpt")
    assert MADE == []


def test_a_compression_is_loaded_beside_any_hyperparameter(digit_module, digit_data, make_trainer, tmp_path):
    digit_module.save_hyperparameters({"root": pathlib.Path("x"), "color": Color.RED})
    compression = Compression(DKMPalettization(n_bits=2))
    trainer = make_trainer(compression, max_epochs=1)
    trainer.fit(digit_module, datamodule=digit_data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    restored = Compression.load_from_checkpoint(tmp_path / "last.ckpt", type(digit_module)())
    assert torch.equal(restored.finalize().head.weight, compression.finalized.head.weight)


def test_what_is_no_checkpoint_is_told(digit_module, tmp_path):
    path = tmp_path / "some.ckpt"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigurationError, match="cannot be read as a checkpoint"):
        Compression.load_from_checkpoint(path, digit_module)
