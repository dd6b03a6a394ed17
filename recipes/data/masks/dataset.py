"""Images with a class for each pixel, whatever their source."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from ...ranges import require_between
from ..datamodule import RecipeDataModule

Sample = tuple[Tensor, Tensor]
Mask = npt.NDArray[np.uint8]

IGNORED = 255
"""The class of pixels that are neither learnt nor measured, as in Pascal VOC."""


class MaskDataset(Dataset[Sample]):
    """Samples of an image in [0, 1], 3 x H x W, and its mask, H x W, under a transform of torchvision's v2 kind.

    Args:
        transform: takes a `tv_tensors.Image` and a `tv_tensors.Mask`, returns tensors.
    """

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def load(self, index: int) -> tuple[Tensor, Mask]:
        """An image, 3 x H x W uint8, and its mask: 0 the background, then the classes, 255 ignored."""

    def __getitem__(self, index: int) -> Sample:
        pixels, mask = self.load(index)
        image, classes = self.transform(tv_tensors.Image(pixels), tv_tensors.Mask(torch.from_numpy(mask)))
        return image, classes


class SegmentationDataModule(RecipeDataModule):
    """A data module of images with masks; batches are images, N x 3 x H x W, and masks, N x H x W int64.

    Class 0 of `class_names` is the background, and counts in `num_classes`. Pixels of class 255 are ignored.

    Args:
        num_classes: classes with the background.
        settings: as for `RecipeDataModule`.
    """

    task = "segmentation"

    def __init__(self, *, num_classes: int, **settings: Any) -> None:
        super().__init__(num_classes=num_classes, **settings)
        require_between("data.num_classes", num_classes, 2, IGNORED)


def evaluation_transform(image_size: int) -> Any:
    """Resizes image and mask, without keeping the aspect ratio."""
    return v2.Compose([v2.Resize((image_size, image_size), antialias=True), _as_batches_need()])


def training_transform(image_size: int, *, flip: bool, smallest_crop: float, brightness: float) -> Any:
    """Augments, then resizes; a mask is moved as its image is, and keeps its classes.

    Args:
        image_size: height and width of the result, in pixels.
        flip: whether half of the images are mirrored.
        smallest_crop: smallest share of an image's area that a random crop keeps; 1 does not crop.
        brightness: brightness and contrast change by a factor of up to 1 more or less this.
    """
    require_between("data.smallest_crop", smallest_crop, 0, 1, above=True)
    require_between("data.brightness", brightness, 0)
    size = (image_size, image_size)
    crop = v2.RandomResizedCrop(size, scale=(smallest_crop, 1.0), antialias=True)
    return v2.Compose(
        [
            crop if smallest_crop < 1 else v2.Resize(size, antialias=True),
            *([v2.RandomHorizontalFlip()] if flip else []),
            *([v2.ColorJitter(brightness=brightness, contrast=brightness)] if brightness > 0 else []),
            _as_batches_need(),
        ]
    )


def _as_batches_need() -> Any:
    return v2.Compose(
        [
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}, scale=True),
            v2.ToPureTensor(),
        ]
    )
