"""Every public argument, given something of every wrong type, is taken as it is meant or refused on the spot."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.quantization.observer import MovingAveragePerChannelMinMaxObserver

from lightning_compress import (
    Compression,
    CoreMLExport,
    DKMPalettization,
    LinearQuantization,
    MagnitudePruning,
    runtime,
)
from lightning_compress.arguments import shown
from lightning_compress.coreml import (
    ImageInput,
    NonMaximumSuppression,
    SizeRange,
    Tolerance,
    add_metadata,
)
from lightning_compress.coreml.post_training import PostTrainingForm, compress_package, palettize_package
from lightning_compress.dkm import FakePalettize, palettize
from lightning_compress.errors import CompressionError
from lightning_compress.methods import Method


class Stranger:
    """An object that nobody knows, and that cannot be shown either."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")


WRONG: list[Any] = [
    None,
    True,
    -1,
    0,
    5,
    0.1,
    -3.5,
    math.nan,
    math.inf,
    "",
    "x",
    "net.mlpackage\0",
    b"x",
    [],
    [None],
    ["a", 5],
    (1, 2),
    {},
    {"scale": 1},
    {5: None},
    {1, 2},
    object(),
    int,
    nn.Linear,
    nn.Linear(2, 2),
    DKMPalettization,
    DKMPalettization(),
    torch.zeros(2),
    np.zeros(2),
    np.float32(0.5),
    np.int64(3),
    pathlib.Path("x"),
    print,
    [[[]]],
]


def method_keys(method: type[Method]) -> list[str]:
    sections = ["global_config", "module_type_configs", "module_name_configs"]
    return [*method.schema.tensor_keys, *method.schema.extra_keys, *sections]


def parameters_of(function: Any) -> list[str]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, item in inspect.signature(function).parameters.items() if item.kind not in kinds]


METHODS: list[type[Method]] = [DKMPalettization, MagnitudePruning, LinearQuantization]

CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any], list[str]]] = {
    "Compression": (Compression, {}, parameters_of(Compression)),
    "CoreMLExport": (
        CoreMLExport,
        {"path": "net.mlpackage"},
        [item.name for item in dataclasses.fields(CoreMLExport)],
    ),
    "ImageInput": (ImageInput, {}, parameters_of(ImageInput)),
    "ImageInput.normalized": (
        ImageInput.normalized,
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        parameters_of(ImageInput.normalized),
    ),
    "SizeRange": (SizeRange, {"height": (1, 2), "width": (1, 2)}, parameters_of(SizeRange)),
    "NonMaximumSuppression": (NonMaximumSuppression, {}, parameters_of(NonMaximumSuppression)),
    "Tolerance": (Tolerance, {}, parameters_of(Tolerance)),
    "palettize_package": (
        palettize_package,
        {"package": "none.mlpackage", "n_bits": [4]},
        parameters_of(palettize_package),
    ),
    "compress_package": (
        compress_package,
        {"package": "none.mlpackage", "forms": [PostTrainingForm(palettize=4)]},
        parameters_of(compress_package),
    ),
    "PostTrainingForm": (PostTrainingForm, {}, parameters_of(PostTrainingForm)),
    "add_metadata": (
        add_metadata,
        {"package": "none.mlpackage", "metadata": {}},
        ["package", "metadata", "card"],
    ),
    "runtime.load": (runtime.load, {"path": "none.mlpackage"}, parameters_of(runtime.load)),
    "FakePalettize": (
        FakePalettize,
        {
            "observer": MovingAveragePerChannelMinMaxObserver.with_args(dtype=torch.qint8),
            "n_bits": 2,
            "cluster_dim": 1,
        },
        [
            name
            for name in parameters_of(FakePalettize)
            if not (name == "observer" or name.startswith("quant_"))
        ],
    ),
    "dkm.palettize": (
        palettize,
        {"weight": torch.randn(8, 4), "centroids": torch.randn(4, 1), "temperature": 1e-3, "iterations": 2},
        parameters_of(palettize),
    ),
    "load_from_checkpoint": (
        Compression.load_from_checkpoint,
        {"path": "none.ckpt", "pl_module": None},
        parameters_of(Compression.load_from_checkpoint),
    ),
    **{method.__name__: (method, {}, method_keys(method)) for method in METHODS},
    **{f"{method.__name__}.from_yaml": (method.from_yaml, {}, ["source"]) for method in METHODS},
}


@pytest.mark.parametrize("name", CALLS)
def test_no_argument_of_a_wrong_type_gets_through_or_ends_in_a_foreign_error(name):
    function, valid, parameters = CALLS[name]
    foreign = [
        foreign_error(function, {**valid, parameter: value}, parameter)
        for parameter in parameters
        for value in WRONG
    ]
    assert not any(foreign), "\n".join(filter(None, foreign))


def foreign_error(function, arguments, parameter):
    """The error that is none of ours, in words, or nothing."""
    try:
        with contextlib.suppress(CompressionError):
            function(**arguments)
    except Exception as error:
        return f"{parameter}={shown(arguments[parameter])}: {type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("value", [*WRONG, Stranger(), "a" * 1000, "line\nbreak"])
def test_a_value_is_shown_in_few_words(value):
    assert 0 < len(shown(value)) < 100
    assert "\n" not in shown(value)
