"""Copies of prepared modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_compress.copying import copy_whole


@torch.no_grad()
def copy_module(module: nn.Module) -> nn.Module:
    """A deep copy that computes with nothing of `module`, on the CPU, in float32 and evaluation mode.

    A parametrized module gets a class of its own: torch 2.14's copies share the original's, and removing a
    parametrization from a copy would remove it from the original.

    Raises:
        CompressionError: As `copy_whole` raises it.
    """
    duplicate = copy_whole(module).cpu().eval()
    for part in duplicate.modules():
        if parametrize.is_parametrized(part):
            original = type(part)
            part.__class__ = type(original.__name__, original.__bases__, dict(vars(original)))
    # Palettes and scales are computed in float32, and converters trace in it.
    duplicate._apply(_in_float32)  # type: ignore[no-untyped-call]
    return duplicate


def _in_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
