"""The Penn-Fudan pedestrians in their own layout."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lightning_compress.errors import DataError

from ...ranges import require_between
from .dataset import (
    AnnotatedImage,
    DetectionDataModule,
    ImageFileDataset,
    Objects,
    evaluation_transform,
    training_transform,
)

_BOX = re.compile(
    r"Bounding box for object \d+ .*?:\s*\((-?\d+),\s*(-?\d+)\)\s*-\s*\((-?\d+),\s*(-?\d+)\)", re.IGNORECASE
)


class PennFudanDataModule(DetectionDataModule):
    """Penn-Fudan's 170 street photographs with 345 pedestrians (Wang et al., ACCV 2007).

    Args:
        root: folder with `PNGImages/` and `Annotation/`; boxes come from `PedMasks/` where `Annotation/` is
            missing.
        num_classes: 1.
        image_size: height and width that images are resized to.
        batch_size: images a step and process.
        num_workers: processes that load.
        val_fraction: share of the images that validate; they are spread evenly over both sources.
        flip: whether training images are mirrored half of the time.
        smallest_crop: smallest share of an image's sides that a training crop keeps; 1 does not crop.
        brightness: brightness and contrast of training images change by a factor of up to 1 more or less
            this.

    Raises:
        DataError: in `setup`: folders that are missing or empty, images without annotation, boxes outside
            images.
    """

    def __init__(
        self,
        root: str,
        *,
        num_classes: int = 1,
        image_size: int = 300,
        batch_size: int = 8,
        num_workers: int = 0,
        val_fraction: float = 0.2,
        flip: bool = True,
        smallest_crop: float = 0.6,
        brightness: float = 0.2,
    ) -> None:
        super().__init__(
            num_classes=num_classes, image_size=image_size, batch_size=batch_size, num_workers=num_workers
        )
        require_between("data.val_fraction", val_fraction, 0, 1, above=True, below=True)
        self.root = Path(root).expanduser()
        self.val_fraction = val_fraction
        self.augmentation: dict[str, Any] = {
            "flip": flip,
            "smallest_crop": smallest_crop,
            "brightness": brightness,
        }

    def read(self) -> tuple[ImageFileDataset, ImageFileDataset, list[str]]:
        """The two splits and the name of the one class."""
        images = read_penn_fudan(self.root)
        # Names sort by source, so every n-th image takes its share of each.
        validates = [
            int((i + 1) * self.val_fraction) > int(i * self.val_fraction) for i in range(len(images))
        ]
        train = [image for image, chosen in zip(images, validates, strict=True) if not chosen]
        val = [image for image, chosen in zip(images, validates, strict=True) if chosen]
        return (
            ImageFileDataset(train, training_transform(self.image_size, **self.augmentation)),
            ImageFileDataset(val, evaluation_transform(self.image_size)),
            ["person"],
        )


def read_penn_fudan(root: Path) -> list[AnnotatedImage]:
    """The images under `PNGImages/` and their pedestrians, sorted by name.

    Raises:
        DataError: as `PennFudanDataModule` says.
    """
    folder = root / "PNGImages"
    if not folder.is_dir():
        raise DataError(
            f"data.root={str(root)!r} is not in Penn-Fudan's layout: there is no folder {str(folder)!r}."
        )
    files = sorted(folder.glob("*.png"))
    if not files:
        raise DataError(f"{str(folder)!r} holds no .png files.")
    if (root / "Annotation").is_dir():
        return [
            _annotated(file, root / "Annotation" / f"{file.stem}.txt", _boxes_from_text) for file in files
        ]
    if (root / "PedMasks").is_dir():
        return [
            _annotated(file, root / "PedMasks" / f"{file.stem}_mask.png", _boxes_from_mask) for file in files
        ]
    raise DataError(
        f"data.root={str(root)!r} is not in Penn-Fudan's layout: neither Annotation/ nor PedMasks/ is there."
    )


def _annotated(file: Path, source: Path, boxes_from: Any) -> AnnotatedImage:
    if not source.is_file():
        raise DataError(f"Image {str(file)!r} has no annotation: {str(source)!r} is missing.")
    boxes = boxes_from(source)
    if len(boxes) == 0:
        raise DataError(f"{str(source)!r} holds no bounding box.")
    with Image.open(file) as image:
        width, height = image.size
    for number, (left, top, right, bottom) in enumerate(boxes, start=1):
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise DataError(
                f"{str(source)!r}: object {number} has the box ({left}, {top}) - ({right}, {bottom}), and "
                f"the image is {width} x {height}."
            )
    labels = np.ones(len(boxes), dtype=np.int64)
    return AnnotatedImage(file, Objects(np.array(boxes, dtype=np.float32), labels))


def _boxes_from_text(source: Path) -> list[tuple[int, int, int, int]]:
    text = source.read_text(encoding="latin-1")
    # The files count pixels from 1 and include the last one.
    return [(int(x1) - 1, int(y1) - 1, int(x2), int(y2)) for x1, y1, x2, y2 in _BOX.findall(text)]


def _boxes_from_mask(source: Path) -> list[tuple[int, int, int, int]]:
    with Image.open(source) as file:
        mask = np.array(file)
    boxes = []
    for label in np.unique(mask[mask > 0]):
        rows, columns = np.nonzero(mask == label)
        boxes.append((int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1))
    return boxes
