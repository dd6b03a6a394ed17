"""The Oxford-IIIT pets by torchvision's class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.datasets import OxfordIIITPet
from torchvision.transforms.v2.functional import pil_to_tensor

from lightning_compress.errors import ConfigurationError, DataError, did_you_mean

from .dataset import (
    IGNORED,
    Mask,
    MaskDataset,
    SegmentationDataModule,
    evaluation_transform,
    training_transform,
)
from .files import reading

#: What the files hold for a pet, what is around it, and the border between them, which nobody has to get right.
_PET, _AROUND, _BORDER = 1, 2, 3
#: What torchvision gives beside the trimap, for each way to tell the classes.
_TARGETS = {"pet": (), "species": ("binary-category",), "breed": ("category",)}


class OxfordPetDataModule(SegmentationDataModule):
    """Oxford-IIIT Pet (Parkhi et al., CVPR 2012): cats and dogs of 37 breeds; `trainval` trains, `test` validates.

    Args:
        root: folder that holds `oxford-iiit-pet/` with `images/` and `annotations/`.
        num_classes: classes with the background: 2, 3 or 38, as `classes` says.
        image_size: height and width that images and masks are resized to.
        batch_size: images a step and process.
        num_workers: processes that load.
        classes: `pet` for any, `species` for cats and dogs, `breed` for the 37.
        download: whether missing files are downloaded into `root`.
        flip: whether training images are mirrored half of the time.
        smallest_crop: smallest share of an image's area that a training crop keeps; 1 does not crop.
        brightness: brightness and contrast of training images change by a factor of up to 1 more or less
            this.

    Raises:
        ConfigurationError: `classes` is none of these.
        DataError: in `setup`: files that are missing or damaged.
    """

    def __init__(
        self,
        root: str,
        *,
        num_classes: int = 3,
        image_size: int = 224,
        batch_size: int = 16,
        num_workers: int = 0,
        classes: str = "species",
        download: bool = False,
        flip: bool = True,
        smallest_crop: float = 0.5,
        brightness: float = 0.2,
    ) -> None:
        super().__init__(
            num_classes=num_classes, image_size=image_size, batch_size=batch_size, num_workers=num_workers
        )
        if classes not in _TARGETS:
            hint = did_you_mean(classes, _TARGETS)
            raise ConfigurationError(
                f"data.classes={classes!r} is unknown{hint} Valid: {', '.join(_TARGETS)}."
            )
        self.root = Path(root).expanduser()
        self.classes = classes
        self.download = download
        self.augmentation: dict[str, Any] = {
            "flip": flip,
            "smallest_crop": smallest_crop,
            "brightness": brightness,
        }

    def prepare_data(self) -> None:
        """Downloads what is missing, where that was asked for."""
        if not self.download:
            return
        try:
            OxfordIIITPet(str(self.root), download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"Oxford-IIIT Pet could not be downloaded into data.root={str(self.root)!r}: {error}. Without "
                "a network unpack images.tar.gz and annotations.tar.gz into oxford-iiit-pet/ there."
            ) from error

    def read(self) -> tuple[PetMasks, PetMasks, list[str]]:
        """The two splits and the names of the classes."""
        train = PetMasks(
            self.root, "trainval", self.classes, training_transform(self.image_size, **self.augmentation)
        )
        val = PetMasks(self.root, "test", self.classes, evaluation_transform(self.image_size))
        for samples in (train, val):
            if len(samples) > 0:
                # The first of them tells files that are missing or none of this data set.
                samples.load(0)
        return train, val, train.class_names


class PetMasks(MaskDataset):
    """torchvision's data set with the trimaps as masks.

    Args:
        root: folder that holds `oxford-iiit-pet/`.
        split: `trainval` or `test`.
        classes: `pet`, `species` or `breed`.
        transform: as for `MaskDataset`.

    Attributes:
        class_names: with the background's first.
    """

    def __init__(self, root: Path, split: str, classes: str, transform: Any) -> None:
        super().__init__(transform)
        self._folder = root / "oxford-iiit-pet"
        try:
            self._pets = OxfordIIITPet(str(root), split, ("segmentation", *_TARGETS[classes]))
        # torchvision names neither the folders nor the list that it wants.
        except (RuntimeError, OSError, ValueError) as error:
            raise DataError(
                f"data.root={str(root)!r} does not hold Oxford-IIIT Pet: oxford-iiit-pet/ with images/, "
                f"annotations/trimaps/ and annotations/{split}.txt is needed ({error}). data.download=true fetches it."
            ) from error
        names = {"pet": ["pet"], "species": self._pets.bin_classes, "breed": self._pets.classes}[classes]
        self.class_names = ["background", *names]

    def __len__(self) -> int:
        return len(self._pets)

    def load(self, index: int) -> tuple[Tensor, Mask]:
        """An image, 3 x H x W uint8, and its mask; the border of a pet is ignored."""
        with reading("A file of", self._folder):
            image, target = self._pets[index]
            trimap, label = (target[0], target[1]) if isinstance(target, tuple) else (target, 0)
            values = np.array(trimap)
        if not np.isin(values, (_PET, _AROUND, _BORDER)).all() or values.shape != image.size[::-1]:
            raise DataError(
                f"Trimap {index} of {str(self._folder)!r} has the values {np.unique(values)[:5].tolist()} and the "
                f"shape {values.shape}; valid are 1, 2 and 3, and its image's {image.size[::-1]}."
            )
        mask = np.select([values == _PET, values == _AROUND], [label + 1, 0], IGNORED).astype(np.uint8)
        return pil_to_tensor(image), mask
