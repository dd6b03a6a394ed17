"""Convolutions and their transposes, in one to three dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from lightning_compress.runtime.batching import only
from lightning_compress.runtime.registry import register

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_TRANSPOSES: dict[int, Callable[..., Tensor]] = {
    3: F.conv_transpose1d,
    4: F.conv_transpose2d,
    5: F.conv_transpose3d,
}


@register("conv", tensors="x weight bias", samplewise=only("x"), new_memory=True)
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Sequence[int] | None = None,
    pad_type: str = "valid",
    pad: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """Convolve `x` [N, C_in, *D] with `weight` [C_out, C_in / groups, *K]."""
    spatial = x.dim() - 2
    stride = strides or [1] * spatial
    dilation = dilations or [1] * spatial
    pads = paddings(pad_type, pad, x.shape[2:], weight.shape[2:], stride, dilation)
    convolve = _CONVOLUTIONS[x.dim()]
    if pads[0::2] == pads[1::2]:
        return convolve(x, weight, bias, stride, pads[0::2], dilation, groups)
    return convolve(F.pad(x, torch_order(pads)), weight, bias, stride, 0, dilation, groups)


@register("conv_transpose", tensors="x weight bias", samplewise=only("x"), new_memory=True)
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Sequence[int] | None = None,
    pad_type: str = "valid",
    pad: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
    output_shape: Sequence[int] | None = None,
) -> Tensor:
    """The transpose of `conv`: `x` [N, C_in, *D] with `weight` [C_in, C_out / groups, *K].

    The full result is cropped by the padding; `output_shape` decides where several sizes fit.
    """
    spatial = x.dim() - 2
    stride = strides or [1] * spatial
    dilation = dilations or [1] * spatial
    full = [
        (size - 1) * s + (k - 1) * d + 1
        for size, s, k, d in zip(x.shape[2:], stride, weight.shape[2:], dilation, strict=True)
    ]
    pads = list(pad) if pad_type == "custom" and pad is not None else [0] * (2 * spatial)
    wanted = [f - pads[2 * i] - pads[2 * i + 1] for i, f in enumerate(full)]
    if pad_type.startswith("same"):
        wanted = [size * s for size, s in zip(x.shape[2:], stride, strict=True)]
    if output_shape is not None:
        wanted = list(output_shape)[2:]
    if pad_type.startswith("same"):
        for i, (f, w) in enumerate(zip(full, wanted, strict=True)):
            pads[2 * i] = max(f - w, 0) // 2 if pad_type == "same" else (max(f - w, 0) + 1) // 2
    result = _TRANSPOSES[x.dim()](x, weight, None, stride, 0, 0, groups, dilation)
    crop: list[int] = []
    for i, (f, w) in enumerate(zip(full, wanted, strict=True)):
        crop += [-pads[2 * i], w + pads[2 * i] - f]
    if any(crop):
        result = F.pad(result, torch_order(crop))
    return result if bias is None else result + bias.reshape(-1, *[1] * spatial)


def paddings(
    pad_type: str,
    pad: Sequence[int] | None,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """Padding before and after each spatial axis, for one of MIL's four kinds of padding."""
    if pad_type == "custom":
        return list(pad or [0] * (2 * len(kernel)))
    if pad_type == "valid":
        return [0] * (2 * len(kernel))
    pads: list[int] = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        pads += [small, large] if pad_type == "same" else [large, small]
    return pads


def torch_order(pads: Sequence[int]) -> list[int]:
    """Pairs of (before, after) in the order of `torch.nn.functional.pad`: last axis first."""
    return [pad for i in range(len(pads) - 2, -1, -2) for pad in pads[i : i + 2]]
