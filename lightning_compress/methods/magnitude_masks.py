"""Which weights magnitude pruning keeps: coremltools' definitions, without their sort of every weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Granularity:
    """What is pruned together.

    Attributes:
        kept_axes: Axes along which parts are told apart, counted with output channels first and input channels
            second: all of them for single weights, two for kernels, one for channels.
        block_size: Number of parts that follow each other along `block_axis` and are pruned together.
        block_axis: The axis of blocks.
    """

    kept_axes: int | None = None
    block_size: int = 1
    block_axis: int = 0


PER_SCALAR = Granularity()


def magnitude_mask(weight: Tensor, sparsity: float, granularity: Granularity = PER_SCALAR) -> Tensor:
    """The mask that keeps the parts of a weight with the largest norm.

    Args:
        weight: Weights of any shape, output channels first.
        sparsity: Fraction of parts to drop, in [0, 1].
        granularity: What the parts are; the norm of more than one weight is the Euclidean one.

    Returns:
        A boolean mask of the shape of `weight`; ties with the smallest part kept are kept.
    """
    magnitude = weight.detach().abs()
    count = weight.numel()
    if granularity.kept_axes is not None and weight.dim() > 2:
        axes = granularity.kept_axes
        magnitude = torch.linalg.vector_norm(magnitude.float().flatten(axes), dim=-1)
        count = magnitude.numel()
        magnitude = magnitude.view(*weight.shape[:axes], *[1] * (weight.dim() - axes))
    if granularity.block_size > 1:
        magnitude = _norms_of_blocks(magnitude.transpose(0, granularity.block_axis), granularity.block_size)
        magnitude = magnitude.transpose(0, granularity.block_axis)
    # coremltools counts in float32, and the count must be the same for the mask to be.
    kept = int(torch.ceil(torch.as_tensor(count, dtype=torch.float32) * (1 - sparsity)))
    return _largest(magnitude, kept).expand(weight.shape)


def _norms_of_blocks(magnitude: Tensor, block_size: int) -> Tensor:
    """The norm of each block along the first axis, at each of its members; a last block may be a part of one."""
    channels = magnitude.shape[0]
    missing = -channels % block_size
    padded = F.pad(magnitude, (0, 0) * (magnitude.dim() - 1) + (0, missing)) if missing else magnitude
    blocks = padded.reshape(-1, block_size, *magnitude.shape[1:])
    norms = blocks.pow(2).sum(1, keepdim=True).sqrt().expand(blocks.shape)
    return norms.reshape(padded.shape)[:channels]


def _largest(magnitude: Tensor, kept: int) -> Tensor:
    if kept <= 0:
        return torch.zeros_like(magnitude, dtype=torch.bool)
    if kept >= magnitude.numel():
        return torch.ones_like(magnitude, dtype=torch.bool)
    return torch.ge(magnitude, value_at(magnitude, magnitude.numel() - kept))


def value_at(values: Tensor, rank: int) -> Tensor | float:
    """The value that stands at `rank`, counted from 0, once `values` are sorted in ascending order."""
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        # numpy's introselect is several times faster than torch.kthvalue here.
        return float(np.partition(values.flatten().numpy(), rank)[rank])
    return values.flatten().kthvalue(rank + 1).values


def ratio_mask(weight: Tensor, zeros: int, block: int, *, along_input: bool = True) -> Tensor:
    """The mask that drops the `zeros` smallest weights of every `block` that follow each other along the channels.

    Zhou et al., "Learning N:M fine-grained structured sparse neural networks from scratch", arXiv 2102.04010.

    Args:
        weight: Output channels first, input channels second.
        zeros: Number of weights to drop in each block.
        block: Number of weights in a block; it divides the number of channels.
        along_input: Whether blocks run along the input channels, or along the output channels.
    """
    axis = 1 if along_input else 0
    last = weight.detach().abs().movedim(axis, -1)
    blocks = last.reshape(-1, block)
    dropped = blocks.argsort(dim=1)[:, :zeros]
    mask = torch.ones_like(blocks, dtype=torch.bool).scatter_(1, dropped, False)
    return mask.view(last.shape).movedim(-1, axis)
