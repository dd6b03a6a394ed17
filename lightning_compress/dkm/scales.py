"""Per-channel scales that bring the channels of a weight to one range before they share a palette."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_compress.errors import ConfigurationError


def channel_scales(values: Tensor, scheme: str) -> Tensor:
    """A scale for each channel.

    Args:
        values: Channels first, (C, ...).
        scheme: "min_max" for half of each channel's range, "abs" for its greatest magnitude.

    Returns:
        Positive scales, (C, 1); 1 for a constant channel under "min_max", which has no range to be scaled by.

    Raises:
        ConfigurationError: For another scheme.
    """
    flat = values.flatten(1)
    if scheme == "min_max":
        # Halves first: the range of weights near the largest float is itself no float.
        scales = flat.amax(dim=1, keepdim=True) / 2 - flat.amin(dim=1, keepdim=True) / 2
    elif scheme == "abs":
        scales = flat.abs().amax(dim=1, keepdim=True)
    else:
        raise ConfigurationError(
            f"per_channel_scaling_factor_scheme is {scheme!r}; valid are 'min_max' and 'abs'"
        )
    return torch.where(scales > 0, scales, torch.ones_like(scales))
