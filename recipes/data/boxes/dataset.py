"""Images with boxes, whatever their source, and how they are joined into batches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_compress.errors import DataError

from ...ranges import require_between
from ..datamodule import RecipeDataModule

Sample = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class Objects:
    """The objects of an image.

    Attributes:
        boxes: n x 4 corners in pixels.
        labels: n, counted from 1; 0 is the background.
        iscrowd: n, whether a box stands for a crowd, which evaluation ignores; None where there is none.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    iscrowd: npt.NDArray[np.int64] | None = None

    def without_crowds(self) -> Objects:
        """The objects that training may learn from."""
        if self.iscrowd is None:
            return self
        keep = self.iscrowd == 0
        return Objects(self.boxes[keep], self.labels[keep])


@dataclass(frozen=True)
class AnnotatedImage:
    """An image file and its objects."""

    path: Path
    objects: Objects = field(repr=False)


class DetectionDataset(Dataset[Sample]):
    """Samples of an image in [0, 1] and its target, under a transform of torchvision's v2 kind.

    Args:
        transform: takes a `tv_tensors.Image` and a target with `tv_tensors.BoundingBoxes`, returns tensors.
    """

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def load(self, index: int) -> tuple[Tensor, Objects]:
        """An image, 3 x H x W uint8, and its objects."""

    def __getitem__(self, index: int) -> Sample:
        pixels, objects = self.load(index)
        target: dict[str, Tensor] = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(objects.boxes), format="XYXY", canvas_size=tuple(pixels.shape[-2:])
            ),
            "labels": torch.from_numpy(objects.labels),
        }
        if objects.iscrowd is not None:
            target["iscrowd"] = torch.from_numpy(objects.iscrowd)
        image, target = self.transform(tv_tensors.Image(pixels), target)
        return image, target


class ImageFileDataset(DetectionDataset):
    """Annotated image files.

    Args:
        images: the files and their objects.
        transform: as for `DetectionDataset`.
    """

    def __init__(self, images: Sequence[AnnotatedImage], transform: Any) -> None:
        super().__init__(transform)
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> tuple[Tensor, Objects]:
        """An image, 3 x H x W uint8, and its objects."""
        annotated = self.images[index]
        try:
            with Image.open(annotated.path) as file:
                pixels = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"Image {str(annotated.path)!r} cannot be read: {error}") from error
        return pixels, annotated.objects


class DetectionDataModule(RecipeDataModule):
    """A data module of images with boxes; batches are images, N x 3 x H x W, and a list of N targets."""

    task = "detection"

    @staticmethod
    def collate(samples: list[Any]) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Joins samples into a batch; the numbers of objects differ, so targets stay a list."""
        return torch.stack([image for image, _ in samples]), [target for _, target in samples]


def evaluation_transform(image_size: int) -> Any:
    """Resizes image and boxes, without keeping the aspect ratio, as torchvision's SSD does."""
    return v2.Compose(
        [
            v2.Resize((image_size, image_size), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.ToPureTensor(),
        ]
    )


def training_transform(image_size: int, *, flip: bool, smallest_crop: float, brightness: float) -> Any:
    """Augments, then resizes.

    Args:
        image_size: height and width of the result, in pixels.
        flip: whether half of the images are mirrored.
        smallest_crop: smallest share of an image's sides that the SSD paper's random crop keeps; 1 does not
            crop.
        brightness: brightness and contrast change by a factor of up to 1 more or less this.
    """
    require_between("data.smallest_crop", smallest_crop, 0, 1, above=True)
    require_between("data.brightness", brightness, 0)
    # Of the paper's least overlaps of a crop with an object only "any" and "no crop" are drawn: small objects never
    # reach the others, and torchvision then tries in vain, for 15 ms an image.
    cropping = [
        v2.RandomIoUCrop(min_scale=smallest_crop, sampler_options=[0.0, 1.0]),
        v2.SanitizeBoundingBoxes(),
    ]
    crop = cropping if smallest_crop < 1 else []
    jitter = [v2.ColorJitter(brightness=brightness, contrast=brightness)] if brightness > 0 else []
    return v2.Compose(
        [
            *crop,
            *([v2.RandomHorizontalFlip()] if flip else []),
            v2.Resize((image_size, image_size), antialias=True),
            *jitter,
            v2.ToDtype(torch.float32, scale=True),
            v2.ToPureTensor(),
        ]
    )
