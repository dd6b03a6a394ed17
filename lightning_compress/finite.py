"""Weights that hold NaN or infinity are refused wherever they are met."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_compress.errors import WeightError


def require_finite(name: str, weight: Tensor, consequence: str) -> None:
    """Raise unless every value of a weight is finite.

    Args:
        name: Of the weight, as whoever reads the error knows it.
        weight: Any shape and type.
        consequence: What cannot be done with it: "the network cannot be exported".

    Raises:
        WeightError: Naming the weight and how many of its values are not finite.
    """
    finite = torch.isfinite(weight.detach())
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise WeightError(
            f"weight {name!r} holds NaN or infinity in {bad} of {weight.numel()} values; {consequence}"
        )
