"""Feeds images in [0, 1], as data modules give them, to a package whose input is an image of 8-bit pixels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class EightBitImages(nn.Module):
    """Rounds images to the 256 levels of an app's pixel buffer before a package sees them.

    Args:
        package: A package loaded by `lightning_compress.runtime.load`, whose input is an image.
    """

    def __init__(self, package: nn.Module) -> None:
        super().__init__()
        self.package = package

    def forward(self, images: Tensor) -> Any:
        """The package's outputs for images in [0, 1], N x 3 x H x W."""
        return self.package((images * 255).round().clamp(0, 255))
