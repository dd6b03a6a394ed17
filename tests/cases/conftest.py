"""The fit that the cases share."""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cases.fitting import METHODS, STEPS, Fitting

_QUICK = 2
"""Of the parameters of a test, so many are tried in the quick suite."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep two of each test among the quick ones: a fit with its export takes about a second, and there are 500."""
    seen: Counter[str] = Counter()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            name = f"{item.path}::{getattr(item, 'originalname', item.name)}"
            seen[name] += 1
            if seen[name] > _QUICK:
                item.add_marker(pytest.mark.slow)


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


@pytest.fixture(params=METHODS)
def technique(request: pytest.FixtureRequest) -> str:
    """The name of a method in `METHODS`."""
    return request.param
