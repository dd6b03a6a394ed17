"""What the module to compress is called with: given by the user, or Lightning's `example_input_array`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch

from lightning_compress.errors import ConfigurationError


def example_inputs_of(
    pl_module: L.LightningModule, given: Any | None, needed_by: Sequence[str]
) -> tuple[Any, ...] | None:
    """Example inputs by position.

    Args:
        pl_module: Its `example_input_array` counts where nothing is given.
        given: A tensor, or a tuple of the positional inputs.
        needed_by: Names of what cannot do without.

    Returns:
        The inputs, or None where there are none and nothing needs them.

    Raises:
        ConfigurationError: If they are needed and there are none, or they are no tensor and no tuple.
    """
    inputs = given if given is not None else pl_module.example_input_array
    if inputs is None:
        if needed_by:
            raise ConfigurationError(
                f"{' and '.join(needed_by)} needs example inputs, and there are none; set example_input_array in "
                f"{type(pl_module).__name__}, or give Compression(example_inputs=...)"
            )
        return None
    if isinstance(inputs, torch.Tensor):
        return (inputs,)
    if isinstance(inputs, tuple | list):
        return tuple(inputs)
    raise ConfigurationError(
        f"example inputs are of type {type(inputs).__name__}; valid is a tensor, or a tuple of the positional inputs "
        "of the module's forward"
    )
