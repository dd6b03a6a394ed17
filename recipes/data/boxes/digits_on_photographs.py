"""Synthetic scenes with exact boxes: handwritten digits on crops of photographs, drawn from a seed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor

from ..digits import read_digits
from .dataset import DetectionDataset, Objects

Split = Literal["train", "val"]
Pixels = npt.NDArray[np.uint8]

#: Sizes are given for scenes of this side and grow with the scene.
_REFERENCE_SIDE = 160
_SMALLEST_DIGIT, _LARGEST_DIGIT = 20, 64
_MOST_DIGITS = 3
#: Two digits may share this much of their union.
_LARGEST_OVERLAP = 0.05
_PLACING_TRIALS = 20
#: Crops of the photographs, before they are resized to the scene.
_SMALLEST_CROP, _LARGEST_CROP = 96, 192
#: Training sees the left of each photograph, validation the rest, so that no background is in both.
_TRAIN_COLUMNS = 448
#: Fainter ink at the rim of a digit is cut off, so that the box is tight to the eye.
_FAINTEST_INK = 64


class DigitScenes(DetectionDataset):
    """1 to 3 of scikit-learn's digits, 20 to 64 pixels high, pasted on a crop of one of its two photographs.

    Scene `i` of a split depends on the seed and on `i` alone: the same in every process, in any order. The
    ink is light on dark ground and dark on light ground. Digits and backgrounds of training and validation
    differ.

    Args:
        split: `train` or `val`.
        count: number of scenes.
        side: height and width of a scene, in pixels; digits grow with it (20 to 64 pixels at 160).
        seed: of all scenes.
        transform: as for `DetectionDataset`.
    """

    def __init__(self, split: Split, count: int, *, side: int, seed: int, transform: Any) -> None:
        super().__init__(transform)
        self.count = count
        self.side = side
        self._stream = (seed, 0 if split == "train" else 1)
        self._digits = [_trim(digit) for digit in read_digits(split)[0]]
        columns = slice(0, _TRAIN_COLUMNS) if split == "train" else slice(_TRAIN_COLUMNS, None)
        self._backgrounds = [photograph[:, columns] for photograph in _photographs()]

    def __len__(self) -> int:
        return self.count

    def load(self, index: int) -> tuple[Tensor, Objects]:
        """A scene, 3 x side x side uint8, and its digits, all of class 1."""
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        random = np.random.default_rng((*self._stream, index))
        scene = self._background(random)
        boxes: list[tuple[int, int, int, int]] = []
        for _ in range(random.integers(1, _MOST_DIGITS + 1)):
            digit = self._digits[random.integers(len(self._digits))]
            box = self._place(random, digit.shape[1] / digit.shape[0], boxes)
            if box is not None:
                _paste(random, scene, digit, box)
                boxes.append(box)
        objects = Objects(np.array(boxes, dtype=np.float32), np.ones(len(boxes), dtype=np.int64))
        return torch.from_numpy(scene.transpose(2, 0, 1).copy()), objects

    def _background(self, random: np.random.Generator) -> Pixels:
        photograph = self._backgrounds[random.integers(len(self._backgrounds))]
        side = int(random.integers(_SMALLEST_CROP, _LARGEST_CROP + 1))
        top = int(random.integers(photograph.shape[0] - side + 1))
        left = int(random.integers(photograph.shape[1] - side + 1))
        crop = photograph[top : top + side, left : left + side]
        if random.integers(2):
            crop = crop[:, ::-1]
        return _resize(crop, self.side, self.side)

    def _place(
        self, random: np.random.Generator, aspect: float, others: list[tuple[int, int, int, int]]
    ) -> tuple[int, int, int, int] | None:
        """Corners of a free place for a digit; None where none is found."""
        scale = self.side / _REFERENCE_SIDE
        for _ in range(_PLACING_TRIALS):
            height = round(int(random.integers(_SMALLEST_DIGIT, _LARGEST_DIGIT + 1)) * scale)
            width = max(1, round(height * aspect))
            if width > self.side:
                continue
            left = int(random.integers(self.side - width + 1))
            top = int(random.integers(self.side - height + 1))
            box = (left, top, left + width, top + height)
            if all(_overlap(box, other) <= _LARGEST_OVERLAP for other in others):
                return box
        return None


@lru_cache(maxsize=1)
def _photographs() -> tuple[Pixels, ...]:
    return tuple(load_sample_image(name) for name in ("china.jpg", "flower.jpg"))


def _trim(digit: Pixels) -> Pixels:
    """The part of an image that the ink covers."""
    inked = digit >= _FAINTEST_INK
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _resize(image: Pixels, width: int, height: int) -> Pixels:
    # Pillow resizes in integer arithmetic: the same on every machine.
    resized = Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized)


def _paste(random: np.random.Generator, scene: Pixels, digit: Pixels, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    place = scene[top:bottom, left:right]
    darkest = 0 if place.mean() > 127 else 176
    ink = random.integers(darkest, darkest + 80, size=3)
    opacity = _resize(digit, right - left, bottom - top).astype(np.int64)[:, :, None]
    place[:] = (place * (255 - opacity) + ink * opacity + 127) // 255


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0, width) * max(0, height)
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (sum(areas) - shared)
