"""What a package and its module are run on to be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_compress.coreml.image import ImageInput
from lightning_compress.coreml.structure import ExampleInputs, as_tuple

_IMAGES = 4


@dataclass(frozen=True)
class Samples:
    """Samples as the package takes them, and as the module does.

    Attributes:
        package: The package's inputs by position, one tuple a sample; an image holds pixels of 0 to 255, RGB.
        module: The module's inputs for the same samples.
    """

    package: Sequence[tuple[Tensor, ...]]
    module: Sequence[tuple[Tensor, ...]]


def random_samples(example_inputs: ExampleInputs, image: ImageInput | None = None) -> Samples:
    """Samples that need no data, the same on each call.

    An image input gets images between smooth and noisy, at each size that the package takes; any other example
    input is taken as it is, floats also in reverse order.

    Args:
        example_inputs: What the module is called with; the first is the image, if there is one.
        image: How the package presents the first input as an image.
    """
    inputs = as_tuple(example_inputs)
    if image is None:
        reverse = tuple(
            value.flatten().flip(0).view(value.shape) if value.is_floating_point() else value
            for value in inputs
        )
        samples = [inputs] if all(map(torch.equal, inputs, reverse)) else [inputs, reverse]
        return Samples(samples, samples)
    rest = tuple(value[:1] for value in inputs[1:])
    height, width = inputs[0].shape[-2:]
    pixels = [
        picture
        for size in image.sizes_to_verify((height, width))
        for picture in _pictures(image.channels, size)
    ]
    return image_samples(pixels, image, rest)


def image_samples(
    pixels: Sequence[Tensor], image: ImageInput | None, others: tuple[Tensor, ...] = ()
) -> Samples:
    """Samples of images.

    Args:
        pixels: 1 x channels x height x width each, 0 to 255, RGB.
        image: How the package presents its input; None if it takes the pixels as an array.
        others: Further inputs, the same for every image.
    """
    return Samples(
        [(picture, *others) for picture in pixels],
        [(picture if image is None else as_network_sees(picture, image), *others) for picture in pixels],
    )


def off_by_rounding(samples: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """The same inputs, each number off by at most the rounding of float16, a 2048th; the same on each call."""
    generator = torch.Generator().manual_seed(0)
    return [
        tuple(
            (value * (1 + (2 * torch.rand(value.shape, generator=generator) - 1) / 2048)).to(value.dtype)
            if value.is_floating_point()
            else value
            for value in sample
        )
        for sample in samples
    ]


def as_network_sees(pixels: Tensor, image: ImageInput) -> Tensor:
    """What Core ML makes of an image before the network: channels in its order, scaled and shifted."""
    ordered = pixels.flip(1) if image.color_layout == "BGR" else pixels
    scale = torch.tensor(image.scales()).view(1, -1, 1, 1)
    bias = torch.tensor(image.biases()).view(1, -1, 1, 1)
    return ordered.float() * scale + bias


def named(values: Sequence[Tensor], names: Sequence[str]) -> Mapping[str, Tensor]:
    """Values by name."""
    return dict(zip(names, values, strict=True))


def _pictures(channels: int, size: tuple[int, int]) -> list[Tensor]:
    """Noise on coarser and coarser grids: like photographs, most have most of their power at low frequencies."""
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for index in range(_IMAGES):
        coarse = [max(2, side // 4**index) for side in size]
        grid = torch.rand(1, channels, *coarse, generator=generator)
        picture = nn.functional.interpolate(grid, size=size, mode="bilinear", align_corners=False)
        pictures.append((picture * 255).round())
    return pictures
