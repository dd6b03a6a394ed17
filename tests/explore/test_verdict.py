"""A package on the part of the data that judges it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_compress.coreml.export import CoreMLExport
from lightning_compress.explore.parts import divided
from lightning_compress.explore.verdict import jackknifed
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


def test_the_package_runs_once_for_each_sample_however_many_groups_are_left_out(
    digit_module: DigitModule, tmp_path: Path
) -> None:
    package = tmp_path / "digits.mlpackage"
    CoreMLExport(package, verify=False, card=False).run(digit_module.model.eval(), (torch.zeros(1, 1, 8, 8),))
    task = _Counted()

    def placed() -> tuple[DigitModule, InPlace]:
        module = DigitModule()
        return module, put_in_place(module, "model", module.model, load(package), task, None)

    _, judged = divided(DigitData(), 0.5)
    value, without = jackknifed(placed, judged, "accuracy", tmp_path)
    assert task.samples == 100
    assert len(without) == 10
    # Each sample is left out once, so that the mean over the groups is the metric itself.
    assert sum(without) / 10 == pytest.approx(value, abs=1e-6)
