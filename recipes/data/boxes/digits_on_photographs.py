"""Synthetic scenes with exact boxes: handwritten digits on crops of photographs, drawn from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..digits import read_digits
from ..photographs import Backgrounds, Pixels, Split, blend, resize, trim
from .dataset import DetectionDataset, Objects

#: Sizes are given for scenes of this side and grow with the scene.
_REFERENCE_SIDE = 160
_SMALLEST_DIGIT, _LARGEST_DIGIT = 20, 64
_MOST_DIGITS = 3
#: Two digits may share this much of their union.
_LARGEST_OVERLAP = 0.05
_PLACING_TRIALS = 20


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
        self._digits = [trim(digit) for digit in read_digits(split)[0]]
        self.backgrounds = Backgrounds(split)

    def __len__(self) -> int:
        return self.count

    def load(self, index: int) -> tuple[Tensor, Objects]:
        """A scene, 3 x side x side uint8, and its digits, all of class 1."""
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        random = np.random.default_rng((*self._stream, index))
        scene = self.backgrounds.crop(random, self.side)
        boxes: list[tuple[int, int, int, int]] = []
        for _ in range(random.integers(1, _MOST_DIGITS + 1)):
            digit = self._digits[random.integers(len(self._digits))]
            box = self._place(random, digit.shape[1] / digit.shape[0], boxes)
            if box is not None:
                _paste(random, scene, digit, box)
                boxes.append(box)
        objects = Objects(np.array(boxes, dtype=np.float32), np.ones(len(boxes), dtype=np.int64))
        return torch.from_numpy(scene.transpose(2, 0, 1).copy()), objects

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


def _paste(random: np.random.Generator, scene: Pixels, digit: Pixels, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    place = scene[top:bottom, left:right]
    darkest = 0 if place.mean() > 127 else 176
    ink = random.integers(darkest, darkest + 80, size=3)
    blend(place, ink, resize(digit, right - left, bottom - top))


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0, width) * max(0, height)
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (sum(areas) - shared)
