"""COCO annotation files, whatever is learnt of them: found, read and checked."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_compress.counted import counted
from lightning_compress.errors import DataError, did_you_mean

_REQUIRED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id"),
    "categories": ("id", "name"),
}

#: Annotation file and image folder of each split, under the root: this project's short layout, and COCO
#: 2017's own.
_LAYOUTS = {
    "train": (("annotations_train.json", "train"), ("annotations/instances_train2017.json", "train2017")),
    "val": (("annotations_val.json", "val"), ("annotations/instances_val2017.json", "val2017")),
}


def locate_coco(
    root: Path, split: str, *, annotations: str | None = None, images: str | None = None
) -> tuple[Path, Path]:
    """Annotation file and image folder of a split: as given, else of the layout that is there.

    Args:
        root: Folder of the data set.
        split: `train` or `val`.
        annotations: The annotation file, absolute or under `root`, where it is in neither layout.
        images: Likewise, the image folder.

    Raises:
        DataError: A folder or an annotation file that does not exist.
    """
    if not root.is_dir():
        raise DataError(f"data.root={str(root)!r} is not a folder that exists.")
    file, folder = next(
        (layout for layout in _LAYOUTS[split] if (root / layout[0]).is_file()), _LAYOUTS[split][0]
    )
    found = root / (annotations or file)
    if not found.is_file():
        looked = (
            [str(root / layout[0]) for layout in _LAYOUTS[split]] if annotations is None else [str(found)]
        )
        raise DataError(
            f"There are no annotations of the {split} split at {' or '.join(looked)}; "
            f"data.{split}_annotations and data.{split}_images say where they are."
        )
    return found, root / (images or folder)


@dataclass(frozen=True)
class CocoObject:
    """An annotation whose category is kept.

    Attributes:
        entry: As it stands in the file.
        image: The entry of its image.
        label: Its class, counted from 1.
    """

    entry: Mapping[str, Any]
    image: Mapping[str, Any]
    label: int


class CocoFile:
    """The content of an annotation file (https://cocodataset.org/#format-data, object detection), checked.

    Args:
        file: The JSON file.
        folder: Where the images are.
        held: The key of an annotation that is learnt: `bbox` or `segmentation`.
        categories: Names of the categories to keep; None keeps all.

    Attributes:
        images: The entries of the images by their ids, in the order of the ids.
        class_names: Names of the categories that are kept, in the order of their ids.

    Raises:
        DataError: A file that is missing, is not JSON or not COCO; categories that it has not.
    """

    def __init__(
        self, file: Path, folder: Path, *, held: str, categories: Sequence[str] | None = None
    ) -> None:
        self.file = file
        self.folder = folder
        content = _read_json(file, held)
        names = _categories(content, file, categories)
        images = {image["id"]: image for image in content["images"]}
        self.images = {key: images[key] for key in sorted(images, key=_by_id)}
        self.class_names = list(names.values())
        self._labels = {category: label for label, category in enumerate(names, start=1)}
        self._known = {category["id"] for category in content["categories"]}
        self._annotations = content["annotations"]

    def objects(self) -> Iterator[CocoObject]:
        """The annotations of the categories that are kept, in the order of the file.

        Raises:
            DataError: An annotation of an image or a category that is not listed.
        """
        for annotation in self._annotations:
            self._check_references(annotation)
            label = self._labels.get(annotation["category_id"])
            if label is not None:
                yield CocoObject(annotation, self.images[annotation["image_id"]], label)

    def is_crowd(self, annotation: Mapping[str, Any]) -> bool:
        """Whether an annotation stands for a crowd."""
        crowd = annotation.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise DataError(
                f"{self.file}: annotation {annotation['id']} has iscrowd {crowd!r}; valid are 0 and 1."
            )
        return bool(crowd)

    def paths(self) -> dict[Any, Path]:
        """Where each image is, by its id.

        Raises:
            DataError: Images that are listed but missing, or that lie elsewhere.
        """
        paths = {key: self._path(image) for key, image in self.images.items()}
        if not self.folder.is_dir():
            raise DataError(f"Image folder {str(self.folder)!r} of {self.file} does not exist.")
        missing = [path.name for path in paths.values() if not path.is_file()]
        if missing:
            raise DataError(
                f"Of the {counted(len(paths), 'image')} that {self.file} lists, {len(missing):,} cannot be found in "
                f"{str(self.folder)!r}: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}."
            )
        return paths

    def _path(self, image: Mapping[str, Any]) -> Path:
        """The path of a listed image: below its folder, whatever the file says."""
        name = image["file_name"]
        path = Path(name) if isinstance(name, str) and name and "\0" not in name else None
        if path is None or path.anchor or ".." in path.parts:
            raise DataError(
                f"{self.file}: image {image['id']} has file_name {name!r}; valid is a path below the image folder "
                f"{str(self.folder)!r}. data.train_images and data.val_images name other folders."
            )
        return self.folder / path

    def _check_references(self, annotation: Mapping[str, Any]) -> None:
        if annotation["image_id"] not in self.images:
            raise DataError(
                f"{self.file}: annotation {annotation['id']} is of image {annotation['image_id']!r}, which is not "
                "listed."
            )
        if annotation["category_id"] not in self._known:
            raise DataError(
                f"{self.file}: annotation {annotation['id']} is of category {annotation['category_id']!r}; the file "
                f"has {sorted(self._known, key=str)[:10]}."
            )


def _by_id(key: Any) -> tuple[bool, Any]:
    return isinstance(key, str), key


def _read_json(file: Path, held: str) -> dict[str, Any]:
    required = {**_REQUIRED, "annotations": (*_REQUIRED["annotations"], held)}
    if not file.is_file():
        raise DataError(f"Annotation file {str(file)!r} does not exist.")
    try:
        text = file.read_text(encoding="utf-8")
        if not text.strip():
            raise DataError(
                f"Annotation file {str(file)!r} is empty; a COCO file with images and annotations is needed."
            )
        content = json.loads(text)
    # JSON that is nested too deeply for Python's reader is a RecursionError.
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, Mapping):
        raise DataError(f"{file} is not in COCO format: an object with {', '.join(required)} is needed.")
    for section, keys in required.items():
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
        if not all(is_number(image[side]) and image[side] > 0 for side in ("width", "height")):
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
    names = dict(sorted(names.items(), key=lambda item: _by_id(item[0])))
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


def is_number(value: Any) -> bool:
    """Whether a value of the file is a finite number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    # JSON's integers have no end; no float is as large as some.
    return abs(value) <= sys.float_info.max
