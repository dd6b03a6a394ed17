"""Palettes rounded to the type that a package stores them in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RoundedPalette(NamedTuple):
    """Palettes of G groups, as they will be stored.

    Attributes:
        values: The rounded centroids, (G, K, D).
        scale: Step of each group's integers, (G, 1, 1), or None for floating-point types.
        zero_point: Integer that stands for zero, (G, 1, 1), or None where that is 0.
    """

    values: Tensor
    scale: Tensor | None = None
    zero_point: Tensor | None = None


def round_palette(palette: Tensor, lut_dtype: str) -> RoundedPalette:
    """Round each group's centroids to `lut_dtype`; zero stays zero exactly.

    Args:
        palette: Shape (G, K, D).
        lut_dtype: "f32" leaves them, "f16" and "bf16" round them, "i8" is symmetric around zero, "u8" spans from the
            least to the greatest centroid and zero.
    """
    if lut_dtype == "f16":
        return RoundedPalette(palette.to(torch.float16).to(palette.dtype))
    if lut_dtype == "bf16":
        return RoundedPalette(palette.to(torch.bfloat16).to(palette.dtype))
    if lut_dtype == "i8":
        scale = palette.abs().amax(dim=(1, 2), keepdim=True) / 127
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        return RoundedPalette((palette / scale).round().clamp(-127, 127) * scale, scale)
    if lut_dtype == "u8":
        low = palette.amin(dim=(1, 2), keepdim=True).clamp_max(0)
        high = palette.amax(dim=(1, 2), keepdim=True).clamp_min(0)
        scale = (high - low) / 255
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        zero_point = (-low / scale).round().clamp(0, 255)
        integers = ((palette / scale).round() + zero_point).clamp(0, 255)
        return RoundedPalette((integers - zero_point) * scale, scale, zero_point)
    return RoundedPalette(palette)
