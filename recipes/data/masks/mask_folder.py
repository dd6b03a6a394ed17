"""Segmentation data from folders of images and of masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchvision.datasets.folder import IMG_EXTENSIONS

from lightning_compress.counted import counted
from lightning_compress.errors import DataError

from .dataset import SegmentationDataModule, evaluation_transform, training_transform
from .files import MaskedImage, MaskFileDataset


class MaskFolderDataModule(SegmentationDataModule):
    """Images in `root/train/images/` with masks of the same names in `root/train/masks/`; `val` likewise.

    A mask is a PNG with the class of each pixel: of one channel, or with a palette, which is read by index. 0 is
    the background, 255 is ignored. Folders inside the folders may be as deep as they like, the same in both.

    Args:
        root: folder with both splits.
        num_classes: classes with the background; masks are compared with it in `setup`.
        image_size: height and width that images and masks are resized to.
        batch_size: images a step and process.
        num_workers: processes that load.
        class_names: names of the classes, with the background's first; None numbers them.
        train_images: folder of the training images under `root`.
        train_masks: likewise, their masks.
        val_images: likewise, the validation images.
        val_masks: likewise, their masks.
        flip: whether training images are mirrored half of the time.
        smallest_crop: smallest share of an image's area that a training crop keeps; 1 does not crop.
        brightness: brightness and contrast of training images change by a factor of up to 1 more or less
            this.

    Raises:
        DataError: in `setup`: folders that are missing or empty, images without mask and masks without image,
            and what `MaskFileDataset.check` finds.
    """

    def __init__(
        self,
        root: str,
        *,
        num_classes: int,
        image_size: int = 224,
        batch_size: int = 16,
        num_workers: int = 0,
        class_names: Sequence[str] | None = None,
        train_images: str = "train/images",
        train_masks: str = "train/masks",
        val_images: str = "val/images",
        val_masks: str = "val/masks",
        flip: bool = True,
        smallest_crop: float = 0.5,
        brightness: float = 0.2,
    ) -> None:
        super().__init__(
            num_classes=num_classes, image_size=image_size, batch_size=batch_size, num_workers=num_workers
        )
        self.root = Path(root).expanduser()
        self.names = None if class_names is None else list(class_names)
        self.folders = {"train": (train_images, train_masks), "val": (val_images, val_masks)}
        self.augmentation: dict[str, Any] = {
            "flip": flip,
            "smallest_crop": smallest_crop,
            "brightness": brightness,
        }

    def read(self) -> tuple[MaskFileDataset, MaskFileDataset, list[str]]:
        """The two splits and the names of the classes."""
        names = self.names or ["background", *(f"class {number}" for number in range(1, self.num_classes))]
        transforms = {
            "train": training_transform(self.image_size, **self.augmentation),
            "val": evaluation_transform(self.image_size),
        }
        train, val = (
            MaskFileDataset(self._pairs(split), self.num_classes, transforms[split])
            for split in ("train", "val")
        )
        for samples in (train, val):
            samples.check()
        return train, val, names

    def _pairs(self, split: str) -> list[MaskedImage]:
        images, masks = (self.root / folder for folder in self.folders[split])
        found_images = _files(images, IMG_EXTENSIONS, f"data.{split}_images")
        found_masks = _files(masks, (".png",), f"data.{split}_masks")
        for what, partner, found, others, folder in (
            ("image", "mask", found_images, found_masks, masks),
            ("mask", "image", found_masks, found_images, images),
        ):
            alone = [path for name, path in found.items() if name not in others]
            if alone:
                raise DataError(
                    f"{counted(len(alone), what)} of {str(alone[0].parent)!r} without {partner} of the same name "
                    f"in {str(folder)!r}: {', '.join(path.name for path in alone[:5])}"
                    f"{', ...' if len(alone) > 5 else ''}."
                )
        return [MaskedImage(path, found_masks[name]) for name, path in found_images.items()]


def _files(folder: Path, endings: Sequence[str], key: str) -> dict[str, Path]:
    """The files of a folder and the folders in it, by their names without ending, sorted."""
    if not folder.is_dir():
        raise DataError(f"Data folder {str(folder)!r} does not exist; {key} names another, below data.root.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings)
    if not paths:
        raise DataError(f"Data folder {str(folder)!r} holds no file that ends in {', '.join(endings)}.")
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(str(path.relative_to(folder).with_suffix("")), path)
        if other != path:
            raise DataError(
                f"{str(other)!r} and {str(path)!r} have one name, and there is one mask for both."
            )
    return found
