"""The input normalization that the recipes' networks are trained with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

#: Mean and standard deviation of ImageNet's training images, red, green, blue, in [0, 1]: what torchvision's
#: pretrained weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """Subtracts a mean from each channel and divides by a standard deviation.

    The same module serves training and export, so that a package sees exactly the input that the network was
    trained with. Its constants are buffers that are not saved: they come from the configuration.

    Args:
        mean: one value a channel, in the range of the input.
        std: one value a channel, in the range of the input.

    Shapes:
        Input and output: N x 3 x H x W, float.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("scale", 1.0 / torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images."""
        return (images - self.mean) * self.scale


class Normalized(nn.Module):
    """A network behind its normalization, so that it takes images as they are, in training and in apps.

    Args:
        network: takes normalized images.

    Shapes:
        Input: N x 3 x H x W, RGB in [0, 1]. Output: what the network returns.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        """What the network returns for normalized images."""
        return self.network(self.normalize(images))


def example_images(image_size: int) -> Tensor:
    """A batch of one random image in [0, 1], the same on each call: 1 x 3 x size x size, float32."""
    return torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
