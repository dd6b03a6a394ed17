"""Which part of a module a training step may call in its place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_compress.callback.distillation.calls import callable_parts
from tests.conftest import DigitNetwork


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (DigitNetwork(), [""]),
        (nn.Linear(2, 2), [""]),
        (nn.ReLU(), [""]),
        (nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(2, 2))), ["", "1", "1.0"]),
        # Compiled, it is called as a whole.
        (nn.Sequential(torch.compile(nn.Sequential(nn.Linear(2, 2)), backend="eager")), ["", "0"]),
    ],
    ids=["two parts", "a layer", "no parameters", "one part", "a compiled part"],
)
def test_a_part_with_all_parameters_may_be_called_alone(module, names):
    assert callable_parts(module) == names
