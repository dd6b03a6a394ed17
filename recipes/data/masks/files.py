"""Image files and index masks on disk, checked before training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_compress.counted import counted
from lightning_compress.errors import DataError

from .dataset import IGNORED, Mask, MaskDataset

#: Pillow's modes of one number a pixel; in `P` it is the index of a color in the file's palette.
_INDEX_MODES = ("1", "L", "P", "I;16", "I")


@dataclass(frozen=True)
class MaskedImage:
    """An image file and the PNG with the class of each of its pixels."""

    image: Path
    mask: Path


class MaskFileDataset(MaskDataset):
    """Image files with index masks.

    Args:
        files: the images and their masks.
        num_classes: classes with the background; masks hold 0 to `num_classes - 1`, and 255 where ignored.
        transform: as for `MaskDataset`.
    """

    def __init__(self, files: Sequence[MaskedImage], num_classes: int, transform: Any) -> None:
        super().__init__(transform)
        self.files = files
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.files)

    def load(self, index: int) -> tuple[Tensor, Mask]:
        """An image, 3 x H x W uint8, and its mask."""
        pair = self.files[index]
        return read_image(pair.image), read_mask(pair.mask, self.num_classes)

    def check(self) -> None:
        """Read every mask, and refuse what no training could use.

        Raises:
            DataError: a file that cannot be read, a mask of another size than its image, of classes that there
                are not or of colors, or no pixel of an object in any mask.
        """

        def objects_of(pair: MaskedImage) -> bool:
            mask = read_mask(pair.mask, self.num_classes)
            size = image_size_of(pair.image)
            if mask.shape[::-1] != size:
                raise DataError(
                    f"Mask {str(pair.mask)!r} is {mask.shape[1]} x {mask.shape[0]} pixels, and its image "
                    f"{str(pair.image)!r} {size[0]} x {size[1]}: a mask has a class for each pixel of its image."
                )
            return shows_objects(mask)

        # Pillow reads files beside Python's lock.
        with ThreadPoolExecutor() as threads:
            check_objects(
                threads.map(objects_of, self.files),
                f"{counted(len(self.files), 'mask')}, such as {str(self.files[0].mask)!r}",
            )


def shows_objects(mask: Mask) -> bool:
    """Whether a mask has a pixel that is neither background nor ignored."""
    return bool(((mask > 0) & (mask != IGNORED)).any())


def check_objects(found: Iterable[bool], masks: str) -> None:
    """Refuse masks of which none shows an object; all of them are looked at.

    Args:
        found: For each mask, whether it shows an object.
        masks: What they are, for the message.
    """
    if not any(list(found)):
        raise DataError(
            f"There is nothing to learn: no pixel of {masks} is of a class from 1, only of the background, 0, or "
            f"ignored, {IGNORED}. Masks of black and white need 1 for white."
        )


@contextmanager
def reading(what: str, path: Path) -> Iterator[None]:
    """Say which file it is that cannot be read."""
    try:
        yield
    # Pillow tells a damaged file by either, and by SyntaxError where a PNG's header is.
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{what} {str(path)!r} cannot be read: {error}") from error


def read_image(path: Path) -> Tensor:
    """An image file, 3 x H x W uint8.

    Raises:
        DataError: A file that is missing or no image.
    """
    with reading("Image", path), Image.open(path) as file:
        return torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)


def image_size_of(path: Path) -> tuple[int, int]:
    """Width and height of an image file, in pixels.

    Raises:
        DataError: A file that is missing or no image.
    """
    with reading("Image", path), Image.open(path) as file:
        return file.size


def read_mask(path: Path, num_classes: int) -> Mask:
    """The class of each pixel, H x W; a PNG with a palette is read by index.

    Raises:
        DataError: A file that is missing or no image, colors in place of classes, or classes that there are not.
    """
    with reading("Mask", path), Image.open(path) as file:
        mode, values = file.mode, np.array(file)
    if mode not in _INDEX_MODES:
        raise DataError(
            f"Mask {str(path)!r} has colors (its mode is {mode}). A mask has one number a pixel, the class: save it "
            "as a PNG of one channel or with a palette."
        )
    beyond = np.setdiff1d(values, [*range(num_classes), IGNORED])
    if len(beyond):
        raise DataError(
            f"Mask {str(path)!r} has class {', '.join(str(value) for value in beyond[:5].tolist())}"
            f"{', ...' if len(beyond) > 5 else ''}, and data.num_classes={num_classes}: valid are 0, the background, "
            f"to {num_classes - 1}, and {IGNORED} for pixels to ignore."
        )
    return values.astype(np.uint8)
