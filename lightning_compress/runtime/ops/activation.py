"""Activation functions and softmax."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_compress.runtime.batching import away_from_axis_0, elementwise
from lightning_compress.runtime.registry import register


@register("relu", tensors="x", samplewise=elementwise, exact=True, new_memory=True)
def relu(x: Tensor) -> Tensor:
    """`max(x, 0)`."""
    return torch.relu(x)


@register("relu6", tensors="x", samplewise=elementwise, exact=True, new_memory=True)
def relu6(x: Tensor) -> Tensor:
    """`min(max(x, 0), 6)`."""
    return torch.clamp(x, 0, 6)


@register("clamped_relu", tensors="x", samplewise=elementwise)
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """`min(beta, x)` where `x >= 0`, else `min(beta, alpha * x)`."""
    return torch.clamp(torch.where(x >= 0, x, alpha * x), max=beta)


@register("leaky_relu", tensors="x", samplewise=elementwise, new_memory=True)
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    """`x` where `x >= 0`, else `alpha * x`."""
    return F.leaky_relu(x, alpha)


@register("thresholded_relu", tensors="x", samplewise=elementwise, exact=True)
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """`x` where `x >= alpha`, else 0."""
    return torch.where(x >= alpha, x, 0.0)


@register("elu", tensors="x", samplewise=elementwise)
def elu(x: Tensor, alpha: float) -> Tensor:
    """`x` where `x > 0`, else `alpha * (exp(x) - 1)`."""
    return F.elu(x, alpha)


@register("prelu", tensors="x alpha", samplewise=elementwise)
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """`x` where `x > 0`, else `alpha * x` with an alpha for each channel (axis 1)."""
    return torch.where(x > 0, x, _by_channel(alpha, x) * x)


@register("gelu", tensors="x", samplewise=elementwise, new_memory=True)
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """Gaussian error linear unit, exact or by one of MIL's two approximations."""
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


@register("linear_activation", tensors="x", samplewise=elementwise)
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    """`alpha * x + beta`."""
    return alpha * x + beta


@register("scaled_tanh", tensors="x", samplewise=elementwise)
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    """`alpha * tanh(beta * x)`."""
    return alpha * torch.tanh(beta * x)


@register("sigmoid", tensors="x", samplewise=elementwise, new_memory=True)
def sigmoid(x: Tensor) -> Tensor:
    """`1 / (1 + exp(-x))`."""
    return torch.sigmoid(x)


@register("sigmoid_hard", tensors="x", samplewise=elementwise)
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    """`min(max(alpha * x + beta, 0), 1)`."""
    return torch.clamp(alpha * x + beta, 0, 1)


@register("silu", tensors="x", samplewise=elementwise, new_memory=True)
def silu(x: Tensor) -> Tensor:
    """`x * sigmoid(x)`."""
    return F.silu(x)


@register("softplus", tensors="x", samplewise=elementwise)
def softplus(x: Tensor) -> Tensor:
    """`log(1 + exp(x))`."""
    return torch.logaddexp(x, torch.zeros_like(x))


@register("softplus_parametric", tensors="x alpha beta", samplewise=elementwise)
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """`alpha * log(1 + exp(beta * x))` with an alpha and a beta for each channel (axis 1)."""
    return _by_channel(alpha, x) * softplus(_by_channel(beta, x) * x)


@register("softsign", tensors="x", samplewise=elementwise)
def softsign(x: Tensor) -> Tensor:
    """`x / (1 + |x|)`."""
    return x / (1 + torch.abs(x))


@register("softmax", tensors="x", samplewise=away_from_axis_0("x", "axis", -1), new_memory=True)
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """`exp(x) / sum(exp(x))` along an axis."""
    return torch.softmax(x, axis)


def _by_channel(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.reshape(-1, *[1] * (x.dim() - 2))
