"""Classification data from a folder of class folders."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import ImageFolder

from lightning_compress.errors import DataError

from ..datamodule import RecipeDataModule
from .transforms import photo_evaluation, photo_training


class ImageFolderDataModule(RecipeDataModule):
    """Images in `root/train/<class>/` and `root/val/<class>/`, ImageNet's layout.

    Args:
        root: folder with both splits.
        num_classes: how many class folders there are; compared in `setup`.
        image_size: height and width after cropping.
        batch_size: images a step and process.
        num_workers: processes that load.
        train_folder: training folder under `root`.
        val_folder: validation folder under `root`.
        smallest_crop: smallest share of an image's area that a training crop keeps.
        flip: whether training images are mirrored half of the time.

    Raises:
        DataError: in `setup`: a folder that is missing, empty or without images, or splits whose classes
            differ.
    """

    task = "classification"

    def __init__(
        self,
        root: str,
        *,
        num_classes: int,
        image_size: int = 224,
        batch_size: int = 64,
        num_workers: int = 4,
        train_folder: str = "train",
        val_folder: str = "val",
        smallest_crop: float = 0.08,
        flip: bool = True,
    ) -> None:
        super().__init__(
            num_classes=num_classes, image_size=image_size, batch_size=batch_size, num_workers=num_workers
        )
        self.root = Path(root).expanduser()
        self.train_folder = train_folder
        self.val_folder = val_folder
        self.smallest_crop = smallest_crop
        self.flip = flip

    def read(self) -> tuple[ImageFolder, ImageFolder, list[str]]:
        """Both splits and the class folders' names, sorted."""
        training = photo_training(self.image_size, smallest_crop=self.smallest_crop, flip=self.flip)
        train = _read_split(self.root / self.train_folder, training)
        val = _read_split(self.root / self.val_folder, photo_evaluation(self.image_size))
        if train.classes != val.classes:
            only_train = sorted(set(train.classes) - set(val.classes))
            only_val = sorted(set(val.classes) - set(train.classes))
            raise DataError(
                f"The class folders of {self.root / self.train_folder} and {self.root / self.val_folder} "
                f"differ: only in training: {only_train[:5]}; only in validation: {only_val[:5]}."
            )
        return train, val, list(train.classes)


def _read_split(folder: Path, transform: object) -> ImageFolder:
    if not folder.is_dir():
        raise DataError(
            f"Data folder {str(folder)!r} does not exist; data.root must hold train/ and val/, each with a "
            "folder of images for each class."
        )
    try:
        return ImageFolder(str(folder), transform=transform)
    # torchvision's messages name the folder, or the classes without images and the endings that count.
    except FileNotFoundError as error:
        raise DataError(f"Data folder {str(folder)!r} cannot be used: {error}") from error
