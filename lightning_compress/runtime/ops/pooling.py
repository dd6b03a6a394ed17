"""Average, maximum and L2 pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_compress.runtime.batching import only
from lightning_compress.runtime.ops.convolution import paddings, torch_order
from lightning_compress.runtime.registry import register

_AVERAGES: dict[int, Callable[..., Tensor]] = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}
_MAXIMA: dict[int, Callable[..., Tensor]] = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}


@register("max_pool", tensors="x", samplewise=only("x"), exact=True)
def max_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Sequence[int] | None = None,
    pad: Sequence[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest value of each window; padding never wins."""
    x, stride = _padded(x, kernel_sizes, pad_type, strides, pad, ceil_mode, -torch.inf)
    return _MAXIMA[x.dim()](x, kernel_sizes, stride)


@register("avg_pool", tensors="x", samplewise=only("x"))
def avg_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Sequence[int] | None = None,
    pad: Sequence[int] | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """The mean of each window.

    Padding counts as zeros unless it is excluded. What `ceil_mode` adds beyond the padding never counts, as in
    PyTorch, whose semantics MIL names.
    """
    pads, stride = _geometry(x, kernel_sizes, pad_type, strides, pad)
    average = _AVERAGES[x.dim()]
    extra = _overhang(x, kernel_sizes, stride, pads) if ceil_mode else [0] * len(stride)
    if not any(pads) and not any(extra):
        return average(x, kernel_sizes, stride)
    widened = list(pads)
    for axis, overhang in enumerate(extra):
        widened[2 * axis + 1] += overhang
    padded = F.pad(x, torch_order(widened))
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    if exclude_padding_from_average:
        counted = F.pad(counted, torch_order(widened))
    else:
        counted = F.pad(F.pad(counted, torch_order(pads), value=1.0), torch_order(_after(extra)))
    return average(padded, kernel_sizes, stride) / average(counted, kernel_sizes, stride)


@register("l2_pool", tensors="x", samplewise=only("x"))
def l2_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Sequence[int] | None = None,
    pad: Sequence[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The root of the sum of squares of each window."""
    padded, stride = _padded(torch.square(x), kernel_sizes, pad_type, strides, pad, ceil_mode, 0.0)
    window = 1
    for size in kernel_sizes:
        window *= size
    return torch.sqrt(_AVERAGES[x.dim()](padded, kernel_sizes, stride) * window)


def _geometry(
    x: Tensor,
    kernel: Sequence[int],
    pad_type: str,
    strides: Sequence[int] | None,
    pad: Sequence[int] | None,
) -> tuple[list[int], list[int]]:
    stride = list(strides or [1] * len(kernel))
    return paddings(pad_type.lower(), pad, x.shape[2:], kernel, stride, [1] * len(kernel)), stride


def _padded(
    x: Tensor,
    kernel: Sequence[int],
    pad_type: str,
    strides: Sequence[int] | None,
    pad: Sequence[int] | None,
    ceil_mode: bool,
    value: float,
) -> tuple[Tensor, list[int]]:
    """`x` with all of its padding, that of `ceil_mode` included, and the strides."""
    pads, stride = _geometry(x, kernel, pad_type, strides, pad)
    if ceil_mode:
        for axis, overhang in enumerate(_overhang(x, kernel, stride, pads)):
            pads[2 * axis + 1] += overhang
    return (F.pad(x, torch_order(pads), value=value) if any(pads) else x), stride


def _overhang(x: Tensor, kernel: Sequence[int], stride: Sequence[int], pads: Sequence[int]) -> list[int]:
    """How far the windows of `ceil_mode` reach past the padded input, by axis."""
    overhang = []
    for axis, (size, k, s) in enumerate(zip(x.shape[2:], kernel, stride, strict=True)):
        before, after = pads[2 * axis], pads[2 * axis + 1]
        windows = -(-(size + before + after - k) // s) + 1
        # A window that would start in the padding after the input is left out.
        if (windows - 1) * s >= size + before and before + after > 0:
            windows -= 1
        overhang.append(max((windows - 1) * s + k - size - before - after, 0))
    return overhang


def _after(extra: Sequence[int]) -> list[int]:
    """Padding of `extra` after each axis and none before, as pairs."""
    return [pad for overhang in extra for pad in (0, overhang)]
