"""The embedded default data of the detection recipe."""

from __future__ import annotations

from lightning_compress.errors import ConfigurationError

from ...ranges import require_between
from .dataset import (
    DetectionDataModule,
    evaluation_transform,
    training_transform,
)
from .digits_on_photographs import DigitScenes


class DigitsDetectionDataModule(DetectionDataModule):
    """Handwritten digits pasted on photographs, one class; see `DigitScenes`. Needs no download.

    Args:
        num_classes: 1.
        image_size: height and width of the images, in pixels.
        batch_size: images a step and process.
        num_workers: processes that draw; a scene takes about a millisecond.
        train_images: number of training images.
        val_images: number of validation images.
        brightness: brightness and contrast of training images change by a factor of up to 1 more or less
            this.
        seed: of all images.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1,
        image_size: int = 160,
        batch_size: int = 16,
        num_workers: int = 0,
        train_images: int = 4800,
        val_images: int = 200,
        brightness: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__(
            num_classes=num_classes, image_size=image_size, batch_size=batch_size, num_workers=num_workers
        )
        for name, value in (("train_images", train_images), ("val_images", val_images)):
            if value < 1:
                raise ConfigurationError(f"data.{name}={value!r} must be at least 1.")
        # numpy seeds its generators with nothing below 0.
        require_between("data.seed", seed, 0)
        self.train_images = train_images
        self.val_images = val_images
        self.brightness = brightness
        self.seed = seed

    def read(self) -> tuple[DigitScenes, DigitScenes, list[str]]:
        """The two splits and the name of the one class."""
        # A mirrored digit is no digit, and the scenes vary enough in place and size.
        augment = training_transform(
            self.image_size, flip=False, smallest_crop=1.0, brightness=self.brightness
        )
        train = DigitScenes(
            "train", self.train_images, side=self.image_size, seed=self.seed, transform=augment
        )
        val = DigitScenes(
            "val",
            self.val_images,
            side=self.image_size,
            seed=self.seed,
            transform=evaluation_transform(self.image_size),
        )
        return train, val, ["digit"]
