"""The outlines of objects in COCO annotation files, checked, and turned into masks."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from torch import Tensor

from lightning_compress.errors import ConfigurationError, DataError

from ..coco_file import CocoFile, is_number
from .dataset import IGNORED, Mask, MaskDataset
from .files import read_image
from .run_lengths import covered_by, read_run_lengths

logger = logging.getLogger(__name__)

InvalidShapes = Literal["error", "skip"]

#: Annotation tools round; a polygon may stick out of its image by this many pixels.
_TOLERANCE = 1.0


@dataclass(frozen=True)
class Shape:
    """What of an image an object covers.

    Attributes:
        outline: Polygons, or run lengths as pycocotools reads them.
        label: The class, counted from 1.
        is_crowd: Whether it stands for a crowd.
    """

    outline: Any
    label: int
    is_crowd: bool


@dataclass(frozen=True)
class OutlinedImage:
    """An image file, its width and height in pixels, and its objects."""

    path: Path
    size: tuple[int, int]
    shapes: Sequence[Shape] = field(repr=False)


class CocoMasks(MaskDataset):
    """Images of an annotation file with masks drawn of their objects' outlines.

    Args:
        images: the files and their objects.
        class_names: with the background's first.
        transform: as for `MaskDataset`.
    """

    def __init__(self, images: Sequence[OutlinedImage], class_names: list[str], transform: Any) -> None:
        super().__init__(transform)
        self.images = images
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> tuple[Tensor, Mask]:
        """An image, 3 x H x W uint8, and its mask."""
        image = self.images[index]
        pixels = read_image(image.path)
        width, height = image.size
        if pixels.shape[1:] != (height, width):
            raise DataError(
                f"Image {str(image.path)!r} is {pixels.shape[2]} x {pixels.shape[1]} pixels, and its annotations are "
                f"for {width} x {height}."
            )
        return pixels, draw_mask(image.shapes, height, width)


def read_coco_masks(
    file: Path,
    folder: Path,
    *,
    categories: Sequence[str] | None,
    invalid_shapes: InvalidShapes,
    transform: Any,
) -> CocoMasks:
    """Reads and checks the outlines of a COCO annotation file.

    Args:
        file: the JSON file.
        folder: where the images are.
        categories: names of the categories to keep; None keeps all.
        invalid_shapes: whether an outline that is malformed or outside of its image is an error, or is left out and
            counted in the log.
        transform: as for `MaskDataset`.

    Raises:
        DataError: what `CocoFile` raises, and outlines as above.
    """
    content = CocoFile(file, folder, held="segmentation", categories=categories)
    shapes: dict[Any, list[Shape]] = defaultdict(list)
    skipped = 0
    for found in content.objects():
        entry, image = found.entry, found.image
        problem = _problem(entry["segmentation"], image)
        if problem is None:
            shapes[image["id"]].append(Shape(entry["segmentation"], found.label, content.is_crowd(entry)))
        elif invalid_shapes == "skip":
            skipped += 1
        else:
            raise DataError(
                f"{file}: annotation {entry['id']} of image {image['file_name']!r} ({image['width']} x "
                f"{image['height']}) has a segmentation that {problem}; valid are polygons, lists of x, y, x, y, "
                "... in pixels inside the image, and run lengths of the image's size. data.invalid_shapes=skip leaves "
                "such objects out."
            )
    if skipped:
        logger.warning("%s: %d objects with invalid outlines are left out.", file, skipped)
    images = [
        OutlinedImage(
            path, (content.images[key]["width"], content.images[key]["height"]), shapes.get(key, [])
        )
        for key, path in content.paths().items()
    ]
    return CocoMasks(images, ["background", *content.class_names], transform)


def draw_mask(shapes: Sequence[Shape], height: int, width: int) -> Mask:
    """The class of each pixel: ignored where two classes claim it, and where nothing but a crowd does."""
    mask: Mask = np.zeros((height, width), dtype=np.uint8)
    for shape in (each for each in shapes if each.is_crowd):
        mask[_covered(shape.outline, height, width)] = IGNORED
    claimed = np.zeros((height, width), dtype=np.uint8)
    for shape in (each for each in shapes if not each.is_crowd):
        covered = _covered(shape.outline, height, width)
        disputed = covered & (claimed > 0) & (claimed != shape.label)
        claimed[covered] = shape.label
        claimed[disputed] = IGNORED
    return np.where(claimed > 0, claimed, mask)


def _covered(outline: Any, height: int, width: int) -> npt.NDArray[np.bool_]:
    if isinstance(outline, list):
        outline = coco_mask.merge(coco_mask.frPyObjects(outline, height, width))
    counts = outline["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode()
    return covered_by(read_run_lengths(counts) if isinstance(counts, str) else counts, height, width)


def _problem(outline: Any, image: Mapping[str, Any]) -> str | None:
    """What is wrong with an outline; pycocotools would draw it as it is."""
    if isinstance(outline, Mapping):
        return _problem_of_runs(outline, image)
    if not isinstance(outline, list) or not outline:
        return "is neither a list of polygons nor run lengths"
    for polygon in outline:
        if not isinstance(polygon, list) or len(polygon) % 2 or len(polygon) < 6:
            return "has a polygon that is no list of at least three pairs x, y"
        if not all(map(is_number, polygon)):
            return "has a polygon of what are no finite numbers"
        for values, most in ((polygon[::2], image["width"]), (polygon[1::2], image["height"])):
            if min(values) < -_TOLERANCE or max(values) > most + _TOLERANCE:
                return (
                    f"has a polygon outside of the image, with {min(values):g} to {max(values):g} of {most}"
                )
    return None


def _problem_of_runs(outline: Mapping[str, Any], image: Mapping[str, Any]) -> str | None:
    size = [image["height"], image["width"]]
    if outline.get("size") != size:
        return f"has run lengths of size {outline.get('size')!r}, and not {size}"
    counts = outline.get("counts")
    if isinstance(counts, str):
        counts = read_run_lengths(counts)
    if not isinstance(counts, list):
        return "has run lengths that are neither a list nor a text"
    if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
        return "has run lengths that are no whole numbers from 0"
    if sum(counts) != size[0] * size[1]:
        return f"has run lengths of {sum(counts)} pixels together"
    return None


def check_invalid_shapes(value: str) -> InvalidShapes:
    """`value`, if it is one of the two ways to treat invalid outlines."""
    if value == "error":
        return "error"
    if value == "skip":
        return "skip"
    raise ConfigurationError(f"data.invalid_shapes={value!r} is unknown; valid: error, skip.")
