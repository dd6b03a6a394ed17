"""scikit-learn's two photographs as backgrounds, and ink put upon them."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_sample_image

Split = Literal["train", "val"]
Pixels = npt.NDArray[np.uint8]

#: Crops of the photographs, before they are resized to the scene.
_SMALLEST_CROP, _LARGEST_CROP = 96, 192
#: Training sees the left of each photograph, validation the rest, so that no background is in both.
_TRAIN_COLUMNS = 448
#: Fainter ink at the rim of a digit is cut off, so that its box is tight to the eye.
_FAINTEST_INK = 64


class Backgrounds:
    """Crops of scikit-learn's two photographs.

    Args:
        split: `train` or `val`; they see different parts of the photographs.
    """

    def __init__(self, split: Split) -> None:
        columns = slice(0, _TRAIN_COLUMNS) if split == "train" else slice(_TRAIN_COLUMNS, None)
        self._photographs = [photograph[:, columns] for photograph in _photographs()]

    def crop(self, random: np.random.Generator, side: int) -> Pixels:
        """A crop of a photograph, maybe mirrored, resized to side x side x 3."""
        photograph = self._photographs[random.integers(len(self._photographs))]
        cut = int(random.integers(_SMALLEST_CROP, _LARGEST_CROP + 1))
        top = int(random.integers(photograph.shape[0] - cut + 1))
        left = int(random.integers(photograph.shape[1] - cut + 1))
        crop = photograph[top : top + cut, left : left + cut]
        if random.integers(2):
            crop = crop[:, ::-1]
        return resize(crop, side, side)


@lru_cache(maxsize=1)
def _photographs() -> tuple[Pixels, ...]:
    return tuple(load_sample_image(name) for name in ("china.jpg", "flower.jpg"))


def trim(ink: Pixels) -> Pixels:
    """The part of a picture of ink, H x W from 0 to 255, that the ink covers."""
    inked = ink >= _FAINTEST_INK
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def resize(image: Pixels, width: int, height: int) -> Pixels:
    """An image, H x W or H x W x 3, at another size, in pixels."""
    # Pillow resizes in integer arithmetic: the same on every machine.
    resized = Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized)


def blend(place: Pixels, ink: npt.NDArray[np.int64], opacity: Pixels) -> None:
    """Put ink on a part of an image, in place.

    Args:
        place: H x W x 3.
        ink: A color for all of it, 3, or one for each pixel, H x W x 3, from 0 to 255.
        opacity: How much of it covers what was there, H x W, from 0 to 255.
    """
    share = opacity.astype(np.int64)[:, :, None]
    place[:] = (place * (255 - share) + ink * share + 127) // 255
