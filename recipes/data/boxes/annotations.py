"""COCO annotation files: read, checked, and turned into annotated images."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_compress.counted import counted
from lightning_compress.errors import ConfigurationError, DataError, did_you_mean

from .dataset import AnnotatedImage, Objects

logger = logging.getLogger(__name__)

InvalidBoxes = Literal["error", "skip"]

#: Annotation tools round; a box may stick out of its image by this many pixels.
_TOLERANCE = 1.0

_REQUIRED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


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
    content = _read_json(file)
    names = _categories(content, file, categories)
    labels = {category: label for label, category in enumerate(names, start=1)}
    images = {image["id"]: image for image in content["images"]}
    known = {category["id"] for category in content["categories"]}
    objects: dict[Any, list[tuple[list[float], int, int]]] = defaultdict(list)
    skipped = 0
    for annotation in content["annotations"]:
        _check_references(annotation, images, known, file)
        label = labels.get(annotation["category_id"])
        if label is None:
            continue
        image = images[annotation["image_id"]]
        box = _corners(annotation["bbox"], image)
        if isinstance(box, list):
            objects[image["id"]].append((box, label, _crowd(annotation, file)))
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
        AnnotatedImage(_image_path(images[key], folder, file), _objects(objects.get(key, [])))
        for key in sorted(images, key=lambda key: (isinstance(key, str), key))
    ]
    _check_files(annotated, file, folder)
    return CocoAnnotations(annotated, list(names.values()))


def _image_path(image: Mapping[str, Any], folder: Path, file: Path) -> Path:
    """The path of a listed image: below its folder, whatever the file says."""
    name = image["file_name"]
    path = Path(name) if isinstance(name, str) and name and "\0" not in name else None
    if path is None or path.anchor or ".." in path.parts:
        raise DataError(
            f"{file}: image {image['id']} has file_name {name!r}; valid is a path below the image folder "
            f"{str(folder)!r}. data.train_images and data.val_images name other folders."
        )
    return folder / path


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise DataError(f"Annotation file {str(file)!r} does not exist.")
    try:
        text = file.read_text(encoding="utf-8")
        if not text.strip():
            raise DataError(
                f"Annotation file {str(file)!r} is empty; a COCO file with images and boxes is needed."
            )
        content = json.loads(text)
    # JSON that is nested too deeply for Python's reader is a RecursionError.
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, Mapping):
        raise DataError(f"{file} is not in COCO format: an object with {', '.join(_REQUIRED)} is needed.")
    for section, keys in _REQUIRED.items():
        entries = content.get(section)
        if not isinstance(entries, list):
            raise DataError(
                f"{file} is not in COCO format: the list {section!r} is missing; it has "
                f"{sorted(content)[:10]}."
            )
        for position, entry in enumerate(entries):
            missing = [key for key in keys if key not in entry] if isinstance(entry, Mapping) else list(keys)
            if missing:
                raise DataError(
                    f"{file} is not in COCO format: {section}[{position}] lacks {', '.join(missing)}."
                )
            for key in keys:
                if key.endswith("id") and not isinstance(entry[key], (int, str)):
                    raise DataError(
                        f"{file}: {section}[{position}] has {key} {entry[key]!r}; valid are numbers and texts."
                    )
        if section != "annotations":
            _check_unique([entry["id"] for entry in entries], section, file)
    if not content["images"]:
        raise DataError(f"{file} lists no images.")
    for image in content["images"]:
        if not all(_is_number(image[side]) and image[side] > 0 for side in ("width", "height")):
            raise DataError(
                f"{file}: image {image['id']} has width {image['width']!r} and height {image['height']!r}; valid "
                "are pixels, more than 0."
            )
    return dict(content)


def _check_unique(ids: Sequence[Any], section: str, file: Path) -> None:
    repeated = [key for key, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(f"{file} lists {section} of the same id: {repeated[:5]}.")


def _categories(content: Mapping[str, Any], file: Path, chosen: Sequence[str] | None) -> dict[int, str]:
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    names = dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))
    if not names:
        raise DataError(f"{file} lists no categories.")
    if chosen is None:
        return names
    for name in chosen:
        if name not in names.values():
            hint = did_you_mean(name, names.values())
            raise DataError(
                f"data.categories has {name!r}, which {file} has not{hint} It has {', '.join(names.values())}."
            )
    return {key: name for key, name in names.items() if name in chosen}


def _check_references(
    annotation: Mapping[str, Any], images: Mapping[Any, Any], categories: Collection[Any], file: Path
) -> None:
    if annotation["image_id"] not in images:
        raise DataError(
            f"{file}: annotation {annotation['id']} is of image {annotation['image_id']!r}, which is not listed."
        )
    if annotation["category_id"] not in categories:
        raise DataError(
            f"{file}: annotation {annotation['id']} is of category {annotation['category_id']!r}; the file has "
            f"{sorted(categories, key=str)[:10]}."
        )


def _crowd(annotation: Mapping[str, Any], file: Path) -> int:
    crowd = annotation.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise DataError(f"{file}: annotation {annotation['id']} has iscrowd {crowd!r}; valid are 0 and 1.")
    return int(crowd)


def _corners(box: Any, image: Mapping[str, Any]) -> list[float] | str:
    """The corners of a box, cut to its image; or, where there are none, what is wrong with it."""
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
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


def _is_number(value: Any) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    # JSON's integers have no end; no float is as large as some.
    return abs(value) <= sys.float_info.max


def _objects(entries: Sequence[tuple[list[float], int, int]]) -> Objects:
    return Objects(
        boxes=np.array([box for box, _, _ in entries], dtype=np.float32).reshape(-1, 4),
        labels=np.array([label for _, label, _ in entries], dtype=np.int64),
        iscrowd=np.array([crowd for _, _, crowd in entries], dtype=np.int64),
    )


def _check_files(images: Sequence[AnnotatedImage], file: Path, folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"Image folder {str(folder)!r} of {file} does not exist.")
    missing = [image.path.name for image in images if not image.path.is_file()]
    if missing:
        raise DataError(
            f"Of the {counted(len(images), 'image')} that {file} lists, {len(missing):,} cannot be found in "
            f"{str(folder)!r}: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}."
        )


def check_invalid_boxes(value: str) -> InvalidBoxes:
    """`value`, if it is one of the two ways to treat invalid boxes."""
    if value == "error":
        return "error"
    if value == "skip":
        return "skip"
    raise ConfigurationError(f"data.invalid_boxes={value!r} is unknown; valid: error, skip.")
