"""Normalization layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_compress.runtime.batching import away_from_axis_0, only
from lightning_compress.runtime.registry import Call, register


@register("batch_norm", tensors="x mean variance gamma beta", samplewise=only("x"), new_memory=True)
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Normalize each channel (axis 1) by a stored mean and variance."""
    return F.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


@register("instance_norm", tensors="x gamma beta", samplewise=only("x"))
def instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    """Normalize each channel of each sample by its own mean and variance."""
    result = _standardized(x, list(range(2, x.dim())), epsilon)
    shape = [-1] + [1] * (x.dim() - 2)
    if gamma is not None:
        result = result * gamma.reshape(shape)
    return result if beta is None else result + beta.reshape(shape)


@register("layer_norm", tensors="x gamma beta", samplewise=away_from_axis_0("x", "axes"), new_memory=True)
def layer_norm(
    x: Tensor,
    axes: Sequence[int] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Normalize over the given axes; gamma and beta have the sizes of those axes."""
    normalized = sorted(axis % x.dim() for axis in (range(x.dim()) if axes is None else axes))
    if normalized == list(range(normalized[0], x.dim())):
        return F.layer_norm(x, x.shape[normalized[0] :], gamma, beta, epsilon)
    result = _standardized(x, normalized, epsilon)
    shape = [size if axis in normalized else 1 for axis, size in enumerate(x.shape)]
    if gamma is not None:
        result = result * gamma.reshape(shape)
    return result if beta is None else result + beta.reshape(shape)


def _l2_samplewise(call: Call) -> bool:
    return len(call.operands["x"][0].shape) > 3


@register("l2_norm", tensors="x", samplewise=_l2_samplewise)
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Divide by the root of the sum of squares of the last three axes."""
    return x * torch.rsqrt(torch.square(x).sum((-3, -2, -1), keepdim=True) + epsilon)


@register("local_response_norm", tensors="x", samplewise=only("x"))
def local_response_norm(
    x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Divide by a power of the mean of squares over neighbouring channels."""
    return F.local_response_norm(x, size, alpha, beta, k)


def _standardized(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * torch.rsqrt(torch.square(centred).mean(axes, keepdim=True) + epsilon)
