"""Resizing of the last two axes, and sampling at given coordinates."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_compress.runtime.batching import inner_ranks, only
from lightning_compress.runtime.ops.transformation import Integers, integers
from lightning_compress.runtime.registry import register


@register("upsample_nearest_neighbor", tensors="x", samplewise=inner_ranks("x", minimum=3), exact=True)
def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1
) -> Tensor:
    """Enlarge by factors; each result is the entry that its upper left corner falls on."""
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        size = math.floor(x.shape[axis] * factor)
        position = torch.arange(size, device=x.device) * (x.shape[axis] / size)
        x = x.index_select(axis, _nearest(position.floor(), x.shape[axis]))
    return x


@register("resize_nearest_neighbor", tensors="x", samplewise=inner_ranks("x", minimum=3), exact=True)
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """Resize to a size; each result is the entry that its centre falls on."""
    for axis, size in ((-2, target_size_height), (-1, target_size_width)):
        position = (torch.arange(size, device=x.device) + 0.5) * (x.shape[axis] / size)
        x = x.index_select(axis, _nearest(position.floor(), x.shape[axis]))
    return x


@register("upsample_bilinear", tensors="x", samplewise=inner_ranks("x", minimum=3))
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """Enlarge by factors with bilinear interpolation; the factors are recomputed from the rounded-down sizes."""
    sizes = [math.floor(x.shape[-2] * scale_factor_height), math.floor(x.shape[-1] * scale_factor_width)]
    if align_corners:
        return _linear(x, sizes, "STRICT_ALIGN_CORNERS")
    centred = half_pixel_centers is None or half_pixel_centers
    return _linear(x, sizes, "UNALIGN_CORNERS" if centred else "DEFAULT")


@register("resize_bilinear", tensors="x", samplewise=inner_ranks("x", minimum=3))
def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """Resize to a size with bilinear interpolation on one of MIL's five grids."""
    return _linear(x, [target_size_height, target_size_width], sampling_mode)


@register("resize", tensors="x")
def resize(
    x: Tensor,
    shape: Integers,
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """Resize the last `resized_dims` axes to the last entries of `shape`; 0 keeps a size."""
    first = x.dim() - resized_dims
    wanted = integers(shape)
    wanted = wanted[len(wanted) - resized_dims :]
    sizes = [size or x.shape[first + i] for i, size in enumerate(wanted)]
    if interpolation_mode == "LINEAR":
        result = _linear(x if x.is_floating_point() else x.to(torch.float32), sizes, sampling_mode)
        return result if x.is_floating_point() else result.round().to(x.dtype)
    for i, size in enumerate(sizes):
        axis = first + i
        grid = sampling_grid(x.shape[axis], size, sampling_mode, x.device)
        x = x.index_select(axis, _nearest((grid + 0.5).floor(), x.shape[axis]))
    return x


def sampling_grid(size: float | Tensor, count: int, sampling_mode: str, device: torch.device) -> Tensor:
    """Where `count` results sample an axis of `size` entries, in one of MIL's five modes.

    A tensor of sizes [boxes, 1] gives one row of positions for each.
    """
    size = torch.as_tensor(size, dtype=torch.float32, device=device)
    i = torch.arange(count, device=device, dtype=torch.float32)
    if sampling_mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        grid = i * ((size - 1) / max(count - 1, 1))
        if count == 1 and sampling_mode == "ALIGN_CORNERS":
            grid = grid + (size - 1) / 2
    elif sampling_mode == "DEFAULT":
        grid = i * (size / count)
    elif sampling_mode == "OFFSET_CORNERS":
        delta = (size - 1).clamp(min=1) / count
        grid = 0.5 * delta + i * delta
    else:
        grid = (i + 0.5) * (size / count) - 0.5
    return torch.minimum(grid.clamp(min=0), size - 1)


def _linear(x: Tensor, sizes: list[int], sampling_mode: str) -> Tensor:
    """Linear interpolation along the last axes, one for each size."""
    aligned = sampling_mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS")
    if len(sizes) == 2 and (
        sampling_mode == "UNALIGN_CORNERS"
        or (aligned and min(sizes) > 1)
        or sampling_mode == "STRICT_ALIGN_CORNERS"
    ):
        images = x.reshape(-1, 1, *x.shape[-2:]) if x.dim() != 4 else x
        result = F.interpolate(images, sizes, mode="bilinear", align_corners=aligned)
        return result.reshape(*x.shape[:-2], *sizes)
    for axis, size in enumerate(sizes, start=-len(sizes)):
        grid = sampling_grid(x.shape[axis], size, sampling_mode, x.device)
        low = grid.floor()
        weight = (grid - low).to(x.dtype).reshape(-1, *[1] * (-axis - 1))
        below = x.index_select(axis, low.long())
        above = x.index_select(axis, _nearest(low + 1, x.shape[axis]))
        x = below + (above - below) * weight
    return x


def _nearest(position: Tensor, size: int) -> Tensor:
    return position.long().clamp(0, size - 1)


@register("crop", tensors="x", samplewise=only("x"), exact=True)
def crop(x: Tensor, crop_height: list[int], crop_width: list[int]) -> Tensor:
    """Cut rows and columns off at both ends."""
    return x[
        ...,
        crop_height[0] : x.shape[-2] - crop_height[1],
        crop_width[0] : x.shape[-1] - crop_width[1],
    ]
