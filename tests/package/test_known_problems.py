"""Packages that are known to go wrong are made as coremltools makes them, and warned of."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.optimize.coreml import OpPalettizerConfig, OptimizationConfig, palettize_weights
from torch import nn

from lightning_compress.coreml.convert import convert
from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.package.inspection import inspect
from lightning_compress.package.known_problems import is_divided_by_scale
from lightning_compress.package.save import save_package


def palettized(path, channels, **keys):
    torch.manual_seed(0)
    network = nn.Linear(128, channels).eval()
    model = convert(network, torch.rand(1, 128), target=ct.target.iOS18)
    with quiet_conversion():
        config = OptimizationConfig(OpPalettizerConfig(mode="uniform", nbits=4, **keys))
        return save_package(palettize_weights(model, config), path)


def test_palettes_with_a_scale_for_each_channel_are_warned_of(tmp_path):
    package = palettized(tmp_path / "net.mlpackage", 64, enable_per_channel_scale=True)
    (problem,) = inspect(package).known_problems
    assert problem.startswith("The weight weight is palettized with a scale for each channel.")
    assert "PR 2688" in problem


def test_weights_that_coremltools_left_divided_by_their_scale_are_warned_of(tmp_path):
    package = palettized(
        tmp_path / "net.mlpackage",
        120,
        granularity="per_grouped_channel",
        group_size=16,
        enable_per_channel_scale=True,
    )
    (problem,) = inspect(package).known_problems
    assert problem.startswith("The weight weight is dense, and the largest magnitude")
    assert "PR 2777" in problem


@pytest.mark.parametrize("keys", [{}, {"granularity": "per_grouped_channel", "group_size": 16}])
def test_other_palettes_are_not_warned_of(tmp_path, keys):
    assert inspect(palettized(tmp_path / "net.mlpackage", 64, **keys)).known_problems == ()


@pytest.mark.parametrize(
    "values",
    [
        np.eye(32, dtype=np.float16),
        np.sign(np.linspace(-1, 1, 1024, dtype=np.float16)).reshape(32, 32),
        np.linspace(-1, 1, 1024, dtype=np.float16).reshape(32, 32),
        np.linspace(-1, 1, 32, dtype=np.float16),
        np.zeros((0, 4), np.float16),
        np.ones((32, 32), np.int8),
    ],
    ids=["identity", "signs", "one row of one", "vector", "empty", "integers"],
)
def test_weights_of_ones_are_not_taken_for_divided_ones(values):
    assert not is_divided_by_scale(values)
