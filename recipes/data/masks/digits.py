"""The embedded default data of the segmentation recipe."""

from __future__ import annotations

from ...ranges import require_between
from ..digits import CLASS_NAMES
from .dataset import SegmentationDataModule, evaluation_transform, training_transform
from .digits_on_photographs import DigitMaskScenes


class DigitsMasksDataModule(SegmentationDataModule):
    """Handwritten digits in clutter on photographs, with the digit as the class of its ink; see `DigitMaskScenes`.

    Needs no download.

    Args:
        num_classes: 11, the background and ten digits.
        image_size: height and width of the images, in pixels.
        batch_size: images a step and process.
        num_workers: processes that draw; a scene takes about two milliseconds.
        train_images: number of training images.
        val_images: number of validation images.
        brightness: brightness and contrast of training images change by a factor of up to 1 more or less
            this.
        seed: of all images.
    """

    def __init__(
        self,
        *,
        num_classes: int = 11,
        image_size: int = 96,
        batch_size: int = 8,
        num_workers: int = 0,
        train_images: int = 16000,
        val_images: int = 200,
        brightness: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__(
            num_classes=num_classes, image_size=image_size, batch_size=batch_size, num_workers=num_workers
        )
        # numpy seeds its generators with nothing below 0.
        for name, value, least in (
            ("train_images", train_images, 1),
            ("val_images", val_images, 1),
            ("seed", seed, 0),
        ):
            require_between(f"data.{name}", value, least)
        self.train_images = train_images
        self.val_images = val_images
        self.brightness = brightness
        self.seed = seed

    def read(self) -> tuple[DigitMaskScenes, DigitMaskScenes, list[str]]:
        """The two splits, and the names of the background and the ten digits."""
        # A mirrored digit is no digit, and the scenes vary enough in place and size.
        augment = training_transform(
            self.image_size, flip=False, smallest_crop=1.0, brightness=self.brightness
        )
        train = DigitMaskScenes(
            "train", self.train_images, side=self.image_size, seed=self.seed, transform=augment
        )
        val = DigitMaskScenes(
            "val",
            self.val_images,
            side=self.image_size,
            seed=self.seed,
            transform=evaluation_transform(self.image_size),
        )
        return train, val, ["background", *CLASS_NAMES]
