"""Conditions, loops, lists and states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_compress.runtime.registry import register


@register("cond", tensors="pred", exact=True, traceable=False)
@register("while_loop", tensors="loop_vars", exact=True, traceable=False)
def run_blocks(**operands: Any) -> tuple[Any, ...]:
    """Never called: the executor runs the blocks of these ops itself."""
    raise NotImplementedError


@register("make_list", tensors="", traceable=False)
def make_list(
    elem_shape: Any, init_length: Any = 1, dynamic_length: bool = True, dtype: str = "fp32"
) -> list[Tensor]:
    """A list of zeros; entries of open sizes are scalars until they are written."""
    fixed = all(isinstance(size, int) and size >= 0 for size in elem_shape)
    kind = torch.float32 if dtype in ("fp32", "fp16") else torch.int32
    return [torch.zeros(elem_shape if fixed else (), dtype=kind)] * int(init_length)


@register("list_length", tensors="ls", traceable=False)
def list_length(ls: list[Tensor]) -> Tensor:
    """How many entries a list has."""
    return torch.tensor(len(ls), dtype=torch.int32)


@register("list_write", tensors="ls index value", traceable=False)
def list_write(ls: list[Tensor], index: Tensor, value: Tensor) -> list[Tensor]:
    """A list with one entry replaced; it grows as far as the entry."""
    position = int(index)
    grown = [*ls, *[torch.zeros_like(value)] * (position + 1 - len(ls))]
    grown[position] = value
    return grown


@register("list_read", tensors="ls index", traceable=False)
def list_read(ls: list[Tensor], index: Tensor) -> Tensor:
    """One entry of a list."""
    return ls[int(index)]


@register("list_gather", tensors="ls indices", traceable=False)
def list_gather(ls: list[Tensor], indices: Tensor) -> Tensor:
    """Some entries of a list, stacked."""
    entries = [ls[index] for index in indices.reshape(-1).tolist()]
    # Entries that were never written are on the CPU.
    device = next((entry.device for entry in entries if entry.device.type != "cpu"), torch.device("cpu"))
    return torch.stack([entry.to(device) for entry in entries])


@register("list_scatter", tensors="ls indices value", traceable=False)
def list_scatter(ls: list[Tensor], indices: Tensor, value: Tensor) -> list[Tensor]:
    """A list with some entries replaced by the rows of a tensor."""
    for index, row in zip(indices.reshape(-1), value, strict=True):
        ls = list_write(ls, index, row)
    return ls


@register("read_state", tensors="input", traceable=False)
def read_state(input: Tensor) -> Tensor:
    """What a state holds."""
    return input.clone()


@register("coreml_update_state", tensors="state value", traceable=False)
def coreml_update_state(state: Tensor, value: Tensor) -> Tensor:
    """Put a value into a state, and return it."""
    state.copy_(value)
    return state.clone()
