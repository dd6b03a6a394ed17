"""The embedded default data: scikit-learn's handwritten digits as RGB images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from ..datamodule import RecipeDataModule
from ..digits import CLASS_NAMES, read_digits
from .transforms import resized


class DigitDataset(Dataset[tuple[Tensor, int]]):
    """Digits of 8 x 8 pixels under a transform.

    Args:
        images: N x 8 x 8, grey from 0 to 255.
        labels: N digits.
        transform: of one image, 1 x 8 x 8.
    """

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], transform: Any) -> None:
        self.images = torch.from_numpy(images).unsqueeze(1)
        self.labels = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


class DigitsDataModule(RecipeDataModule):
    """scikit-learn's 1,797 handwritten digits: 1,437 train, the last 360, by other writers, validate.

    Needs no download. Training digits are moved and scaled a little when `augment` is set.

    Args:
        num_classes: 10.
        image_size: height and width that the 8 x 8 digits are resized to.
        batch_size: images a step and process.
        num_workers: processes that load.
        augment: whether training digits are moved and scaled at random.
    """

    task = "classification"

    def __init__(
        self,
        *,
        num_classes: int = 10,
        image_size: int = 64,
        batch_size: int = 32,
        num_workers: int = 0,
        augment: bool = True,
    ) -> None:
        super().__init__(
            num_classes=num_classes, image_size=image_size, batch_size=batch_size, num_workers=num_workers
        )
        self.augment = augment

    def read(self) -> tuple[DigitDataset, DigitDataset, list[str]]:
        """The two splits and the names of the ten digits."""
        augment = (
            [v2.RandomAffine(degrees=10, translate=(0.125, 0.125), scale=(0.8, 1.1))]
            if self.augment
            else None
        )
        train = DigitDataset(*read_digits("train"), resized(self.image_size, augment=augment))
        val = DigitDataset(*read_digits("val"), resized(self.image_size))
        return train, val, list(CLASS_NAMES)
