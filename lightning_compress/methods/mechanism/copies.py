"""Copies of prepared modules."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


@torch.no_grad()
def copy_module(module: nn.Module) -> nn.Module:
    """A deep copy that shares nothing with `module`, on the CPU, in float32 and evaluation mode.

    What torch cannot copy is taken along as its values: tensors that a module keeps of its last forward pass, such as
    an auxiliary loss. A parametrized module gets a class of its own: torch 2.14's copies share the original's, and
    removing a parametrization from a copy would remove it from the original.
    """
    memo: dict[int, Any] = {
        id(tensor): tensor.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        for tensor in _tensors_within(value)
        if not tensor.is_leaf
    }
    duplicate = copy.deepcopy(module, memo).cpu().eval()
    for part in duplicate.modules():
        if parametrize.is_parametrized(part):
            original = type(part)
            part.__class__ = type(original.__name__, original.__bases__, dict(vars(original)))
    # Palettes and scales are computed in float32, and converters trace in it.
    duplicate._apply(_in_float32)  # type: ignore[no-untyped-call]
    return duplicate


def _tensors_within(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _tensors_within(entry)
    elif isinstance(value, list | tuple | set):
        for entry in value:
            yield from _tensors_within(entry)


def _in_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
