"""How an image input is presented to apps: its colours, and the arithmetic on its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import coremltools as ct
import torch
from torch import Tensor, nn

from lightning_compress.arguments import (
    refusal,
    require_number,
    require_one_of,
    require_type,
    require_whole,
)
from lightning_compress.errors import ConfigurationError

_LAYOUTS = {"RGB": 3, "BGR": 3, "GRAYSCALE": 1}


@dataclass(frozen=True)
class SizeRange:
    """Sizes of an image between two bounds, in pixels, both included.

    Args:
        height: Least and greatest height.
        width: Least and greatest width.

    Raises:
        ConfigurationError: If a bound is no positive whole number, or the least exceeds the greatest.
    """

    height: Sequence[int]
    width: Sequence[int]

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            given = getattr(self, name)
            require_type(
                f"{name} of a size range", given, Sequence, "a pair of whole numbers such as (224, 448)"
            )
            bounds = tuple(given)
            for bound in bounds:
                require_whole(f"a bound in {name} of a size range", bound, 1)
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
                raise ConfigurationError(
                    f"{name}={list(bounds)!r} of a size range is no pair of a least and a greatest size in pixels"
                )
            object.__setattr__(self, name, bounds)

    def __contains__(self, size: tuple[int, int]) -> bool:
        return all(
            low <= side <= high for side, (low, high) in zip(size, (self.height, self.width), strict=True)
        )


@dataclass(frozen=True)
class ImageInput:
    """An input that apps fill with an image; the network sees `scale * pixel + bias`, pixels being 0 to 255.

    One scale for all channels is Core ML's own preprocessing. Scales that differ between channels, which Core
    ML has no place for, become operations at the start of the program.

    Args:
        scale: Factor of the pixels, or one for each channel.
        bias: What is added after scaling, or one for each channel, in the order of `color_layout`.
        color_layout: "RGB", "BGR" or "GRAYSCALE": the order of channels that the network takes.
        sizes: Sizes that the package takes besides that of the example image: pairs of height and width, or a
            `SizeRange`; None for that one size. The network must compute what depends on the size in its
            forward, as fully convolutional networks and those with adaptive pooling do.

    Raises:
        ConfigurationError: If the layout is unknown, or `scale` or `bias` has another number of channels, or a
            size is no pair of positive whole numbers.

    Example:
        ImageNet's normalization, mean (0.485, 0.456, 0.406), standard deviation (0.229, 0.224, 0.225):

        >>> image = ImageInput.normalized(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    """

    scale: float | Sequence[float] = 1.0
    bias: float | Sequence[float] = 0.0
    color_layout: str = "RGB"
    sizes: Sequence[Sequence[int]] | SizeRange | None = None

    def __post_init__(self) -> None:
        if self.sizes is not None and not isinstance(self.sizes, SizeRange):
            require_type("sizes", self.sizes, Sequence, "a list of pairs of height and width, or a SizeRange")
            object.__setattr__(self, "sizes", _pairs(self.sizes))
        require_one_of("color_layout", self.color_layout, _LAYOUTS)
        for name in ("scale", "bias"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise refusal(f"{name} of an image input", value, "a number, or one for each channel")
            values = list(value) if isinstance(value, Sequence) else [value]
            for number in values:
                require_number(f"{name} of an image input", number, "a number, or one for each channel")
            if len(values) not in (1, self.channels):
                raise ConfigurationError(
                    f"{name}={values!r} of an image input has {len(values)} values; "
                    f"{self.color_layout} takes one, or {self.channels}"
                )
            object.__setattr__(self, name, tuple(float(v) for v in values))

    @classmethod
    def normalized(cls, mean: Sequence[float], std: Sequence[float], color_layout: str = "RGB") -> ImageInput:
        """The input of a network trained on `(pixel / 255 - mean) / std`, torchvision's normalization.

        Raises:
            ConfigurationError: If the numbers are not one for each channel, or a deviation is 0.
        """
        for name, values in (("mean", mean), ("std", std)):
            require_type(
                f"{name} of an image input", values, (list, tuple), "a list of one number for each channel"
            )
            for number in values:
                require_number(f"{name} of an image input", number)
        if len(mean) != len(std) or 0 in std:
            raise ConfigurationError(
                f"mean={list(mean)!r} and std={list(std)!r} of an image input; valid are as many numbers in both, one "
                "for each channel, and no deviation of 0"
            )
        return cls(
            scale=[1 / (255 * s) for s in std],
            bias=[-m / s for m, s in zip(mean, std, strict=True)],
            color_layout=color_layout,
        )

    @property
    def channels(self) -> int:
        """Number of channels of the network's input."""
        return _LAYOUTS[self.color_layout]

    def scales(self) -> tuple[float, ...]:
        """One scale for each channel."""
        return self._spread(self.scale)

    def biases(self) -> tuple[float, ...]:
        """One bias for each channel."""
        return self._spread(self.bias)

    def _spread(self, value: float | Sequence[float]) -> tuple[float, ...]:
        values = (value,) if isinstance(value, (int, float)) else tuple(value)
        return values * self.channels if len(values) == 1 else values

    def sizes_to_verify(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Heights and widths that show whether the package works at all that it takes.

        Args:
            size: That of the example image.

        Returns:
            Every size where they are listed; else that of the example image and the least.
        """
        if self.sizes is None:
            return [size]
        if isinstance(self.sizes, SizeRange):
            return list(dict.fromkeys([size, (self.sizes.height[0], self.sizes.width[0])]))
        return list(dict.fromkeys([size, *((height, width) for height, width in self.sizes)]))

    @property
    def in_program(self) -> bool:
        """Whether the scales differ between channels, so that the program itself must apply them."""
        return len(set(self.scales())) > 1

    def input_type(self, name: str, shape: Sequence[int]) -> ct.ImageType:
        """The input as coremltools declares it, for a network input of shape (1, channels, height, width).

        Raises:
            ConfigurationError: If the shape is no single image of this layout.
        """
        if len(shape) != 4 or shape[0] != 1 or shape[1] != self.channels:
            raise ConfigurationError(
                f"the example input {name!r} has shape {tuple(shape)}; "
                f"an image input of layout {self.color_layout} needs (1, {self.channels}, height, width)"
            )
        scale, bias = (1.0, (0.0,) * self.channels) if self.in_program else (self.scales()[0], self.biases())
        return ct.ImageType(
            name=name,
            shape=self._shape(shape),
            scale=scale,
            bias=bias[0] if self.channels == 1 else list(bias),
            color_layout=getattr(ct.colorlayout, self.color_layout),
        )

    def _shape(self, shape: Sequence[int]) -> Any:
        batch, channels, height, width = shape
        if self.sizes is None:
            return tuple(shape)
        if not isinstance(self.sizes, SizeRange):
            shapes = [(batch, channels, *size) for size in self.sizes_to_verify((height, width))]
            return ct.EnumeratedShapes(shapes, default=tuple(shape)) if len(shapes) > 1 else tuple(shape)
        if (height, width) not in self.sizes:
            raise ConfigurationError(
                f"the example image of {height} x {width} pixels is outside of the sizes asked for: height "
                f"{self.sizes.height}, width {self.sizes.width}"
            )
        sides = [
            ct.RangeDim(low, high, default=side)
            for side, (low, high) in zip((height, width), (self.sizes.height, self.sizes.width), strict=True)
        ]
        return ct.Shape((batch, channels, *sides))


def _pairs(sizes: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    pairs = [
        tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else (size,) for size in sizes
    ]
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
            raise ConfigurationError(
                f"sizes holds {list(pair)!r}, which is no pair of height and width in pixels"
            )
    return tuple((height, width) for height, width in pairs)


class Preprocessed(nn.Module):
    """A network behind its per-channel scales and biases, for images whose scales differ between channels."""

    scale: Tensor
    bias: Tensor

    def __init__(self, module: nn.Module, image: ImageInput) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("scale", torch.tensor(image.scales()).view(1, -1, 1, 1))
        self.register_buffer("bias", torch.tensor(image.biases()).view(1, -1, 1, 1))

    def forward(self, image: Tensor, *others: Tensor) -> object:
        """Apply the network to the scaled image."""
        return self.module(image * self.scale + self.bias, *others)
