"""The fit that the cases share."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cases.fitting import STEPS, Fitting


@pytest.fixture
def fit(tmp_path: Path) -> Iterator[Fitting]:
    """Fits small networks for three steps."""
    fitting = Fitting(tmp_path)
    with warnings.catch_warnings():
        # coremltools leaves a folder open where a conversion fails; it must not be found in a later test.
        warnings.filterwarnings("ignore", "Implicitly cleaning up", ResourceWarning)
        yield fitting
        if fitting.trainer is None or fitting.steps < STEPS:
            gc.collect()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small modules are slower with more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
