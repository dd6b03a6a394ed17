"""The fit that the cases share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cases.fitting import Fitting


@pytest.fixture
def fit(tmp_path: Path) -> Fitting:
    """Fits small networks for three steps."""
    return Fitting(tmp_path)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small modules are slower with more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
