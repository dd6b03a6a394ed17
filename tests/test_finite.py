from __future__ import annotations

import math

import pytest
import torch

from lightning_compress.errors import WeightError
from lightning_compress.finite import require_finite


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_finite_weight_passes_and_any_other_is_named_with_how_much_of_it_is_wrong(dtype):
    weight = torch.ones(2, 3, dtype=dtype, requires_grad=True)
    require_finite("head.weight", weight, "it cannot be palettized")
    broken = torch.tensor([1.0, math.nan, -math.inf], dtype=dtype)
    with pytest.raises(
        WeightError, match=r"'head\.weight' holds NaN or infinity in 2 of 3 values; it cannot be palettized"
    ):
        require_finite("head.weight", broken, "it cannot be palettized")
