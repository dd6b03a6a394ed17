"""Segmentation data in COCO format: polygons and run lengths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_compress.errors import DataError

from ..coco_file import locate_coco
from .annotations import CocoMasks, check_invalid_shapes, read_coco_masks
from .dataset import SegmentationDataModule, evaluation_transform, training_transform
from .files import check_objects


class CocoMasksDataModule(SegmentationDataModule):
    """Images and the outlines of their objects in COCO format.

    The classes are the background and the file's categories, in the order of their ids. Pixels that two classes
    claim are ignored, and so are those of a crowd (`iscrowd`).

    Args:
        root: folder with `train/`, `val/`, `annotations_train.json` and `annotations_val.json`, or with COCO
            2017's own `train2017/`, `val2017/` and `annotations/instances_*2017.json`.
        num_classes: number of classes with the background, after `categories`; compared in `setup`.
        image_size: height and width that images and masks are resized to.
        batch_size: images a step and process.
        num_workers: processes that load.
        categories: names of the categories to keep, such as `[person]`; None keeps all.
        train_images: folder of the training images, absolute or under `root`, where it is not one of the
            above.
        train_annotations: likewise, the training annotations.
        val_images: likewise, the folder of the validation images.
        val_annotations: likewise, the validation annotations.
        invalid_shapes: `error`, or `skip` to leave out polygons outside of their images and the like.
        flip: whether training images are mirrored half of the time.
        smallest_crop: smallest share of an image's area that a training crop keeps; 1 does not crop.
        brightness: brightness and contrast of training images change by a factor of up to 1 more or less
            this.

    Raises:
        DataError: in `setup`: files that are missing or malformed; see `read_coco_masks`.
    """

    def __init__(
        self,
        root: str,
        *,
        num_classes: int,
        image_size: int = 224,
        batch_size: int = 16,
        num_workers: int = 0,
        categories: Sequence[str] | None = None,
        train_images: str | None = None,
        train_annotations: str | None = None,
        val_images: str | None = None,
        val_annotations: str | None = None,
        invalid_shapes: str = "error",
        flip: bool = True,
        smallest_crop: float = 0.5,
        brightness: float = 0.2,
    ) -> None:
        super().__init__(
            num_classes=num_classes, image_size=image_size, batch_size=batch_size, num_workers=num_workers
        )
        self.root = Path(root).expanduser()
        self.categories = None if categories is None else list(categories)
        self.paths = {"train": (train_annotations, train_images), "val": (val_annotations, val_images)}
        self.invalid_shapes = check_invalid_shapes(invalid_shapes)
        self.augmentation: dict[str, Any] = {
            "flip": flip,
            "smallest_crop": smallest_crop,
            "brightness": brightness,
        }

    def read(self) -> tuple[CocoMasks, CocoMasks, list[str]]:
        """The two splits, and the names of the background and the categories."""
        train = self._read_split("train", training_transform(self.image_size, **self.augmentation))
        val = self._read_split("val", evaluation_transform(self.image_size))
        if train.class_names != val.class_names:
            raise DataError(
                f"The categories of the two splits in {self.root} differ: {train.class_names[1:]} in training, "
                f"{val.class_names[1:]} in validation."
            )
        return train, val, train.class_names

    def _read_split(self, split: str, transform: Any) -> CocoMasks:
        annotations, images = self.paths[split]
        file, folder = locate_coco(self.root, split, annotations=annotations, images=images)
        samples = read_coco_masks(
            file,
            folder,
            categories=self.categories,
            invalid_shapes=self.invalid_shapes,
            transform=transform,
        )
        check_objects(
            (any(not shape.is_crowd for shape in image.shapes) for image in samples.images),
            f"any image of {str(file)!r}",
        )
        return samples
