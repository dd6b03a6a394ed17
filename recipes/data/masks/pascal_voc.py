"""Segmentation data in Pascal VOC's layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchvision.models.segmentation import DeepLabV3_MobileNet_V3_Large_Weights

from lightning_compress.counted import counted
from lightning_compress.errors import DataError

from .dataset import SegmentationDataModule, evaluation_transform, training_transform
from .files import MaskedImage, MaskFileDataset

#: VOC's 20 classes after the background, which torchvision writes as `__background__`.
_VOC_NAMES = ["background", *DeepLabV3_MobileNet_V3_Large_Weights.DEFAULT.meta["categories"][1:]]


class PascalVOCDataModule(SegmentationDataModule):
    """Images in `JPEGImages/`, masks in `SegmentationClass/`, splits in `ImageSets/Segmentation/*.txt`.

    That is the layout of Pascal VOC (Everingham et al., IJCV 2010). Masks are PNGs with a palette, read by index; 255
    marks the border of objects, and is ignored.

    Args:
        root: the folder that holds these three, or one in which they are in `VOCdevkit/VOC2012/`, as in the
            archive.
        num_classes: classes with the background.
        image_size: height and width that images and masks are resized to.
        batch_size: images a step and process.
        num_workers: processes that load.
        class_names: names of the classes, with the background's first; None takes VOC's.
        train_set: the list of training images, without `.txt`.
        val_set: likewise, of the validation images.
        flip: whether training images are mirrored half of the time.
        smallest_crop: smallest share of an image's area that a training crop keeps; 1 does not crop.
        brightness: brightness and contrast of training images change by a factor of up to 1 more or less
            this.

    Raises:
        DataError: in `setup`: folders, lists or files that are missing, and what `MaskFileDataset.check` finds.
    """

    def __init__(
        self,
        root: str,
        *,
        num_classes: int = 21,
        image_size: int = 224,
        batch_size: int = 16,
        num_workers: int = 0,
        class_names: Sequence[str] | None = None,
        train_set: str = "train",
        val_set: str = "val",
        flip: bool = True,
        smallest_crop: float = 0.5,
        brightness: float = 0.2,
    ) -> None:
        super().__init__(
            num_classes=num_classes, image_size=image_size, batch_size=batch_size, num_workers=num_workers
        )
        self.root = Path(root).expanduser()
        self.names = _VOC_NAMES if class_names is None else list(class_names)
        self.sets = (train_set, val_set)
        self.augmentation: dict[str, Any] = {
            "flip": flip,
            "smallest_crop": smallest_crop,
            "brightness": brightness,
        }

    def read(self) -> tuple[MaskFileDataset, MaskFileDataset, list[str]]:
        """The two splits and the names of the classes."""
        train_files, val_files = (self._files(name) for name in self.sets)
        training = training_transform(self.image_size, **self.augmentation)
        train = MaskFileDataset(train_files, self.num_classes, training)
        val = MaskFileDataset(val_files, self.num_classes, evaluation_transform(self.image_size))
        for samples in (train, val):
            samples.check()
        return train, val, list(self.names)

    def _files(self, split: str) -> list[MaskedImage]:
        """The files of a list, each of which is there."""
        folders = (self.root, self.root / "VOCdevkit" / "VOC2012")
        folder = next((each for each in folders if (each / "ImageSets" / "Segmentation").is_dir()), None)
        if folder is None:
            raise DataError(
                f"data.root={str(self.root)!r} has no folder ImageSets/Segmentation, nor has VOCdevkit/VOC2012 in it: "
                "Pascal VOC's layout is JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/."
            )
        listing = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not listing.is_file():
            lists = ", ".join(sorted(path.stem for path in listing.parent.glob("*.txt")))
            raise DataError(f"There is no list {str(listing)!r}; beside it are: {lists or 'none'}.")
        names = listing.read_text(encoding="utf-8").split()
        if not names:
            raise DataError(f"The list {str(listing)!r} names no images.")
        files = [
            MaskedImage(folder / "JPEGImages" / f"{name}.jpg", folder / "SegmentationClass" / f"{name}.png")
            for name in names
        ]
        missing = [path for pair in files for path in (pair.image, pair.mask) if not path.is_file()]
        if missing:
            raise DataError(
                f"{counted(len(missing), 'file')} of the list {str(listing)!r} not found: "
                f"{', '.join(str(path.relative_to(folder)) for path in missing[:5])}"
                f"{', ...' if len(missing) > 5 else ''}."
            )
        return files
