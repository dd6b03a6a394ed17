"""The boxes of COCO annotation files, checked."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_compress.errors import ConfigurationError, DataError

from ..coco_file import CocoFile, is_number
from .dataset import AnnotatedImage, Objects

logger = logging.getLogger(__name__)

InvalidBoxes = Literal["error", "skip"]

#: Annotation tools round; a box may stick out of its image by this many pixels.
_TOLERANCE = 1.0


@dataclass(frozen=True)
class CocoAnnotations:
    """The images and classes of a COCO annotation file.

    Attributes:
        images: files with their objects, in the order of image ids; labels count from 1 in the order of
            `class_names`.
        class_names: names of the categories, in the order of their ids.
    """

    images: list[AnnotatedImage]
    class_names: list[str]


def read_coco(
    file: Path,
    folder: Path,
    *,
    categories: Sequence[str] | None = None,
    invalid_boxes: InvalidBoxes = "error",
) -> CocoAnnotations:
    """Reads and checks a COCO annotation file (https://cocodataset.org/#format-data, object detection).

    Args:
        file: the JSON file.
        folder: where the images are.
        categories: names of the categories to keep; None keeps all.
        invalid_boxes: whether a box without area or outside its image is an error, or is left out and counted
            in the log (COCO 2017 itself has two).

    Raises:
        DataError: a file that is missing, is not JSON or not COCO; unknown ids; boxes as above; images that
            are listed but missing.
    """
    content = CocoFile(file, folder, held="bbox", categories=categories)
    objects: dict[Any, list[tuple[list[float], int, int]]] = defaultdict(list)
    skipped = 0
    for found in content.objects():
        annotation, image = found.entry, found.image
        box = _corners(annotation["bbox"], image)
        if isinstance(box, list):
            objects[image["id"]].append((box, found.label, int(content.is_crowd(annotation))))
        elif invalid_boxes == "skip":
            skipped += 1
        else:
            raise DataError(
                f"{file}: annotation {annotation['id']} of image {image['file_name']!r} ({image['width']} x "
                f"{image['height']}) has bbox {annotation['bbox']!r}, which {box}; valid are x, y, width, "
                "height in pixels inside the image. data.invalid_boxes=skip leaves such boxes out."
            )
    if skipped:
        logger.warning("%s: %d boxes without area or outside their images are left out.", file, skipped)
    annotated = [
        AnnotatedImage(path, _objects(objects.get(key, []))) for key, path in content.paths().items()
    ]
    return CocoAnnotations(annotated, content.class_names)


def _corners(box: Any, image: Mapping[str, Any]) -> list[float] | str:
    """The corners of a box, cut to its image; or, where there are none, what is wrong with it."""
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        return "is not a list of four finite numbers"
    x, y, width, height = box
    if width <= 0 or height <= 0:
        return "has no area"
    left, top, right, bottom = (
        max(0.0, x),
        max(0.0, y),
        min(x + width, image["width"]),
        min(y + height, image["height"]),
    )
    outside = max(left - x, top - y, x + width - right, y + height - bottom)
    if outside > _TOLERANCE or left >= right or top >= bottom:
        return "reaches out of the image"
    return [left, top, right, bottom]


def _objects(entries: Sequence[tuple[list[float], int, int]]) -> Objects:
    return Objects(
        boxes=np.array([box for box, _, _ in entries], dtype=np.float32).reshape(-1, 4),
        labels=np.array([label for _, label, _ in entries], dtype=np.int64),
        iscrowd=np.array([crowd for _, _, crowd in entries], dtype=np.int64),
    )


def check_invalid_boxes(value: str) -> InvalidBoxes:
    """`value`, if it is one of the two ways to treat invalid boxes."""
    if value == "error":
        return "error"
    if value == "skip":
        return "skip"
    raise ConfigurationError(f"data.invalid_boxes={value!r} is unknown; valid: error, skip.")
