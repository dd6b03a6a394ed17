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
) -> list[Any]:
    """A list of tensors yet to be written."""
    return [None] * int(init_length)


@register("list_length", tensors="ls", traceable=False)
def list_length(ls: list[Any]) -> Tensor:
    """How many entries a list has."""
    return torch.tensor(len(ls), dtype=torch.int32)


@register("list_write", tensors="ls index value", traceable=False)
def list_write(ls: list[Any], index: Tensor, value: Tensor) -> list[Any]:
    """A list with one entry replaced; it grows as far as the entry."""
    position = int(index)
    grown = [*ls, *[None] * (position + 1 - len(ls))]
    grown[position] = value
    return grown


@register("list_read", tensors="ls index", traceable=False)
def list_read(ls: list[Any], index: Tensor) -> Tensor:
    """One entry of a list."""
    entry: Tensor = ls[int(index)]
    return entry


@register("list_gather", tensors="ls indices", traceable=False)
def list_gather(ls: list[Any], indices: Tensor) -> Tensor:
    """Some entries of a list, stacked."""
    return torch.stack([ls[index] for index in indices.reshape(-1).tolist()])


@register("list_scatter", tensors="ls indices value", traceable=False)
def list_scatter(ls: list[Any], indices: Tensor, value: Tensor) -> list[Any]:
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
