"""The networks and inputs of the tests of making packages: a package to read has to be made first."""

from __future__ import annotations

import shutil
from pathlib import Path

import coremltools as ct
import pytest
import torch
from torch import nn

from lightning_compress.coreml.convert import convert
from lightning_compress.package.save import save_package
from tests.coreml.conftest import build_network, digit, digits, network

__all__ = ["build_network", "digit", "digits", "network"]


@pytest.fixture(scope="session")
def whole_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that nobody changes."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
    model = convert(layers, torch.rand(1, 1, 8, 8), target=ct.target.iOS18)
    return save_package(model, tmp_path_factory.mktemp("whole") / "net.mlpackage")


@pytest.fixture
def package(whole_package: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(whole_package, tmp_path / "net.mlpackage")
