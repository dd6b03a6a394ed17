"""How far the metric of a package can be off, from what it is on parts of the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_compress.coreml.export import CoreMLExport
from lightning_compress.explore.parts import divided
from lightning_compress.explore.uncertainty import by_groups, error_of_groups, jackknifed, standard_error
from lightning_compress.runtime import load
from lightning_compress.tasks import InPlace, Task
from lightning_compress.tasks.putting import put_in_place
from tests.conftest import DigitData, DigitModule


class _Counted(Task):
    """Counts the samples that a package is run on."""

    samples = 0

    def run(self, package: nn.Module, inputs: list[Tensor]) -> Any:
        self.samples += len(inputs[0])
        return super().run(package, inputs)


@pytest.mark.parametrize("measured", [jackknifed, by_groups], ids=["all but a group", "a group alone"])
def test_the_package_runs_once_for_each_sample_however_many_groups_there_are(
    measured: Callable[..., tuple[float, list[float]]], digit_module: DigitModule, tmp_path: Path
) -> None:
    package = tmp_path / "digits.mlpackage"
    CoreMLExport(package, verify=False, card=False).run(digit_module.model.eval(), (torch.zeros(1, 1, 8, 8),))
    task = _Counted()

    def placed() -> tuple[DigitModule, InPlace]:
        module = DigitModule()
        return module, put_in_place(module, "model", module.model, load(package), task, None)

    _, judged = divided(DigitData(), 0.5)
    value, groups = measured(placed, judged, "accuracy", tmp_path)
    assert task.samples == 100
    assert len(groups) == 10
    assert len(set(groups)) > 1
    # Each sample is left out once, or taken once, so that the mean over the groups is the metric itself.
    assert sum(groups) / 10 == pytest.approx(value, abs=1e-6)


_VALUES = st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=20)


@given(_VALUES)
def test_the_standard_error_of_a_mean_is_that_of_the_textbook_by_both_ways(values: list[float]) -> None:
    textbook = float(torch.tensor(values, dtype=torch.float64).std() / len(values) ** 0.5)
    without_each = [(sum(values) - value) / (len(values) - 1) for value in values]
    assert standard_error(without_each) == pytest.approx(textbook, abs=1e-9)
    assert error_of_groups(values) == pytest.approx(textbook, abs=1e-9)


def test_of_a_single_group_no_standard_error_is_known() -> None:
    assert math.isnan(standard_error([0.5]))
    assert math.isnan(error_of_groups([0.5]))
