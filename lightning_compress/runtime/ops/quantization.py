"""Quantization of activations."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_compress.runtime.registry import Call, register

_RANGES = {"uint8": (0, 255, torch.uint8), "int8": (-128, 127, torch.int8)}


def _axis_samplewise(call: Call) -> bool:
    axis = call.attributes.get("axis")
    return axis is None or axis % len(call.results[0]) != 0


@register("quantize", tensors="input scale zero_point", samplewise=_axis_samplewise)
def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """`clip(round(input / scale) + zero_point)`."""
    low, high, dtype = _RANGES[output_dtype]
    levels = torch.round(input / along(scale, input, axis))
    if zero_point is not None:
        levels = levels + along(zero_point, input, axis)
    return levels.clamp(low, high).to(dtype)


@register("dequantize", tensors="input scale zero_point", samplewise=_axis_samplewise)
def dequantize(
    input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """`scale * (input - zero_point)`, computed in float32 and rounded once."""
    levels = input.to(torch.float32)
    if zero_point is not None:
        levels = levels - along(zero_point, input, axis).to(torch.float32)
    return (levels * along(scale, input, axis).to(torch.float32)).to(scale.dtype)


def along(parameter: Tensor, data: Tensor, axis: int | None) -> Tensor:
    """A scalar as it is; a vector reshaped to lie along an axis of `data`."""
    if parameter.dim() == 0 or axis is None or parameter.dim() == data.dim():
        return parameter
    shape = [1] * data.dim()
    shape[axis] = -1
    return parameter.reshape(shape)
