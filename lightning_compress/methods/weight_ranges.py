"""Scales of weights that are rounded once: those of least error among ranges that leave out their furthest elements."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.configuration import Keys
from lightning_compress.methods.mechanism.tensors import TensorReference
from lightning_compress.methods.observers import Groups, IntegerType

_SHARES = tuple(1 - 0.025 * step for step in range(25))
"""Parts of the whole range that are tried."""


def scales_of(
    weight: Tensor,
    counts: Tensor | None,
    integers: IntegerType,
    groups: Groups,
    *,
    symmetric: bool,
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each group, of the rank of the weight.

    Args:
        weight: In single precision.
        counts: How much the square of each element's error counts, of the weight's shape; all the same by default.
        integers: What it is rounded to.
        groups: Which elements share a scale.
        symmetric: Whether zero is in the middle of the range.
    """
    low, high = groups.range_of(weight)
    parameters = integers.symmetric if symmetric else integers.affine
    best = parameters(low, high)
    least: Tensor | None = None
    for share in _SHARES:
        scale, zero_point = parameters(low * share, high * share)
        error = _error(weight, counts, integers, groups, scale, zero_point)
        if least is None:
            least = error
            continue
        better = error < least
        least = torch.where(better, error, least)
        best = torch.where(better, scale, best[0]), torch.where(better, zero_point, best[1])
    return best


def _error(
    weight: Tensor,
    counts: Tensor | None,
    integers: IntegerType,
    groups: Groups,
    scale: Tensor,
    zero_point: Tensor,
) -> Tensor:
    steps, middle = groups.broadcast(scale, weight), groups.broadcast(zero_point, weight)
    numbers = torch.round(weight / steps).add_(middle).clamp_(integers.lowest, integers.highest)
    squares = numbers.sub_(middle).mul_(steps).sub_(weight).square_()
    if counts is not None:
        squares.mul_(counts)
    if groups.axis is None:
        return squares.sum().reshape(scale.shape)
    return groups.rows(squares).sum(dim=1).reshape(scale.shape)


def integer_label(integers: IntegerType, groups: Groups) -> str:
    """The bits of a weight, and what shares a scale."""
    shared = "a scale a channel" if groups.axis is not None else "one scale"
    if groups.block_size is not None:
        shared = f"a scale a block of {groups.block_size}"
    return f"int{integers.n_bits} weights, {shared}"


def check_blocks(keys: Keys, source: str) -> None:
    """Refuse sizes of blocks that cannot be.

    Raises:
        ConfigurationError: With the value, `source` and what is valid.
    """
    if "weight_per_channel" in keys and not isinstance(keys["weight_per_channel"], bool):
        raise ConfigurationError(
            f"weight_per_channel of {source} is {keys['weight_per_channel']!r}; valid is true or false"
        )
    size = keys.get("block_size")
    if size is None:
        return
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigurationError(
            f"block_size of {source} is {size!r}; valid is a number of weights from 1, or None for no blocks"
        )
    if not keys.get("weight_per_channel", True):
        raise ConfigurationError(
            f"block_size of {source} is {size} with weight_per_channel False; valid is weight_per_channel True, of "
            "which blocks are parts"
        )


def check_blocks_of(reference: TensorReference, keys: Keys, technique: str) -> None:
    """Refuse blocks that do not divide a weight.

    Raises:
        ConfigurationError: With the sizes that do.
    """
    size = keys.get("block_size")
    channels = reference.shape[reference.layout.input_axis]
    if size is not None and channels % size:
        raise ConfigurationError(
            f"block_size of {technique} is {size}, and {reference.name!r} has {channels} input channels; valid are "
            f"{[number for number in range(1, channels + 1) if channels % number == 0]}, or None in "
            "module_name_configs for a scale for all of a channel"
        )
