"""The range of weights, and the refusal of what has none."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_compress.errors import WeightError


def finite_range(weights: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest weight of each group, (G,).

    Args:
        weights: Shape (G, N).

    Raises:
        WeightError: If a weight is NaN or infinite (on the CPU; elsewhere looking would make the host wait).
    """
    if weights.numel() == weights.shape[0]:
        low = high = weights[:, 0]
    elif weights.shape[0] == 1:
        # Over a dimension of torch's it takes many times as long.
        low, high = (bound.view(1) for bound in torch.aminmax(weights))
    else:
        low, high = torch.aminmax(weights, dim=-1)
    if weights.device.type == "cpu" and not all(map(math.isfinite, (*low.tolist(), *high.tolist()))):
        raise WeightError("the weight holds NaN or infinity")
    return low, high
