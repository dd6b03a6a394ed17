"""Detection data in COCO format."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_compress.counted import counted
from lightning_compress.errors import DataError

from ..coco_file import locate_coco
from .annotations import (
    CocoAnnotations,
    check_invalid_boxes,
    read_coco,
)
from .dataset import (
    AnnotatedImage,
    DetectionDataModule,
    ImageFileDataset,
    evaluation_transform,
    training_transform,
)

logger = logging.getLogger(__name__)


class CocoDataModule(DetectionDataModule):
    """Images and boxes in COCO format.

    The classes are the file's categories, in the order of their ids. Boxes marked `iscrowd` are not learnt,
    and evaluation ignores detections inside them. Training leaves out images without objects.

    Args:
        root: folder with `train/`, `val/`, `annotations_train.json` and `annotations_val.json`, or with COCO
            2017's own `train2017/`, `val2017/` and `annotations/instances_*2017.json`.
        num_classes: number of classes, after `categories`; compared in `setup`.
        image_size: height and width that images are resized to.
        batch_size: images a step and process.
        num_workers: processes that load.
        categories: names of the categories to keep, such as `[person]`; None keeps all.
        train_images: folder of the training images, absolute or under `root`, where it is not one of the
            above.
        train_annotations: likewise, the training annotations.
        val_images: likewise, the folder of the validation images.
        val_annotations: likewise, the validation annotations.
        invalid_boxes: `error`, or `skip` to leave out boxes without area or outside their images.
        flip: whether training images are mirrored half of the time.
        smallest_crop: smallest share of an image's sides that a training crop keeps; 1 does not crop.
        brightness: brightness and contrast of training images change by a factor of up to 1 more or less
            this.

    Raises:
        DataError: in `setup`: files that are missing or malformed; see `read_coco`.
    """

    def __init__(
        self,
        root: str,
        *,
        num_classes: int = 1,
        image_size: int = 300,
        batch_size: int = 8,
        num_workers: int = 0,
        categories: Sequence[str] | None = None,
        train_images: str | None = None,
        train_annotations: str | None = None,
        val_images: str | None = None,
        val_annotations: str | None = None,
        invalid_boxes: str = "error",
        flip: bool = True,
        smallest_crop: float = 0.6,
        brightness: float = 0.2,
    ) -> None:
        super().__init__(
            num_classes=num_classes, image_size=image_size, batch_size=batch_size, num_workers=num_workers
        )
        self.root = Path(root).expanduser()
        self.categories = None if categories is None else list(categories)
        self.paths = {"train": (train_annotations, train_images), "val": (val_annotations, val_images)}
        self.invalid_boxes = check_invalid_boxes(invalid_boxes)
        self.augmentation: dict[str, Any] = {
            "flip": flip,
            "smallest_crop": smallest_crop,
            "brightness": brightness,
        }

    def read(self) -> tuple[ImageFileDataset, ImageFileDataset, list[str]]:
        """The two splits and the names of the categories."""
        train, val = self._read_split("train"), self._read_split("val")
        learnable = with_objects(train.images)
        if not learnable:
            kept = "" if self.categories is None else f" of data.categories={self.categories}"
            raise DataError(
                f"{self._locate('train')[0]} has no object{kept} to learn from in any of "
                f"{counted(len(train.images), 'image')}; boxes marked iscrowd do not count."
            )
        if train.class_names != val.class_names:
            raise DataError(
                f"The categories of the two splits in {self.root} differ: {train.class_names} in training, "
                f"{val.class_names} in validation."
            )
        return (
            ImageFileDataset(learnable, training_transform(self.image_size, **self.augmentation)),
            ImageFileDataset(val.images, evaluation_transform(self.image_size)),
            train.class_names,
        )

    def _read_split(self, split: str) -> CocoAnnotations:
        annotations, images = self._locate(split)
        return read_coco(annotations, images, categories=self.categories, invalid_boxes=self.invalid_boxes)

    def _locate(self, split: str) -> tuple[Path, Path]:
        annotations, images = self.paths[split]
        return locate_coco(self.root, split, annotations=annotations, images=images)


def with_objects(images: Sequence[AnnotatedImage]) -> list[AnnotatedImage]:
    """The images that training can learn from, crowds left out; how many are left out is logged."""
    learnable = [AnnotatedImage(image.path, image.objects.without_crowds()) for image in images]
    kept = [image for image in learnable if len(image.objects.labels) > 0]
    if len(kept) < len(images):
        logger.info(
            "%d of %d training images show no object and are left out.", len(images) - len(kept), len(images)
        )
    return kept
