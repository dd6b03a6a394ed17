"""What the module to compress is called with: given by the user, or Lightning's `example_input_array`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lightning_compress.arguments import shown
from lightning_compress.errors import ConfigurationError

Inputs = tuple[Any, ...] | dict[str, Any]
"""Inputs by position, or by name."""

_VALID = (
    "a tensor, a tuple of the positional inputs of the module's forward, or a dictionary of its inputs by name, as in "
    "Lightning's example_input_array"
)


def example_inputs_of(
    pl_module: L.LightningModule, given: Any | None, needed_by: Sequence[str]
) -> Inputs | None:
    """Example inputs by position or by name.

    Args:
        pl_module: Its `example_input_array` counts where nothing is given.
        given: A tensor, a tuple of the positional inputs, or a dictionary of inputs by name.
        needed_by: Names of what cannot do without.

    Returns:
        The inputs, or None where there are none and nothing needs them.

    Raises:
        ConfigurationError: If they are needed and there are none, or they are of another type.
    """
    if given is not None:
        return as_inputs(given, "example_inputs")
    if pl_module.example_input_array is not None:
        return as_inputs(pl_module.example_input_array, f"example_input_array of {type(pl_module).__name__}")
    if needed_by:
        raise ConfigurationError(
            f"{' and '.join(needed_by)} needs example inputs, and there are none; set example_input_array in "
            f"{type(pl_module).__name__}, or give Compression(example_inputs=...)"
        )
    return None


def as_inputs(given: Any, source: str) -> Inputs:
    """Inputs as Lightning calls a module with them.

    Raises:
        ConfigurationError: They are of another type.
    """
    if isinstance(given, torch.Tensor):
        return (given,)
    if isinstance(given, Mapping) and all(isinstance(key, str) for key in given):
        return dict(given)
    if isinstance(given, tuple | list):
        return tuple(given)
    raise ConfigurationError(f"{source}={shown(given)}; valid is {_VALID}")


def on_cpu(inputs: Any) -> Any:
    """A copy of inputs, however nested, on the CPU and in float32 where they were in half precision."""
    return tree_map(_on_cpu, inputs)


def _on_cpu(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.detach().to("cpu", copy=True)
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
