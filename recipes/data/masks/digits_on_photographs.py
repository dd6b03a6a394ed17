"""Synthetic scenes with exact masks: handwritten digits in clutter on crops of photographs, drawn from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..digits import read_digits
from ..photographs import Backgrounds, Pixels, Split, blend, resize, trim
from .dataset import Mask, MaskDataset

#: Heights of digits and scribbles, in shares of the scene's side.
_SMALLEST, _LARGEST = 0.38, 0.54
_FEWEST_DIGITS, _MOST_DIGITS = 3, 4
_MOST_SCRIBBLES = 1
_MOST_PATCHES = 1
#: Short and long side of a patch of another photograph, in shares of the scene's side.
_PATCH_SIDES = ((0.08, 0.16), (0.3, 0.6))
#: Photographs are darker by this factor, so that there is room for light ink on all of them.
_DARKER = 2
#: How much lighter ink is than the mean of what it covers, in each color, of 255.
_LEAST_CONTRAST, _MOST_CONTRAST = 56, 144
#: The colors of one ink differ by up to this.
_TINT = 24
#: Of so many places for a digit or a scribble, the emptiest is taken.
_PLACES = 6
#: Digits are turned by up to so many degrees.
_STEEPEST = 10
#: What is at least half ink is a digit's.
_INK = 128
#: An 8 x 8 digit is soft when it is enlarged; its rim gets steeper by this factor.
_SHARPNESS = 3
#: scikit-learn's digits have this side, and so have scribbles before they are enlarged.
_GLYPH_SIDE = 8


class DigitMaskScenes(MaskDataset):
    """3 or 4 of scikit-learn's digits on a crop of one of its photographs, among scribbles and under patches.

    The digit is the class of its ink; all else is background, class 0. Digits, scribbles of the same ink and
    patches of other photographs lie upon each other in any order, and the mask holds what is seen. Ink differs
    little from what it covers.

    Scene `i` of a split depends on the seed and on `i` alone: the same in every process, in any order. Digits
    and backgrounds of training and validation differ.

    Args:
        split: `train` or `val`.
        count: number of scenes.
        side: height and width of a scene, in pixels; all that is in it grows with it.
        seed: of all scenes.
        transform: as for `MaskDataset`.
    """

    def __init__(self, split: Split, count: int, *, side: int, seed: int, transform: Any) -> None:
        super().__init__(transform)
        self.count = count
        self.side = side
        self._stream = (seed, 0 if split == "train" else 1)
        digits, labels = read_digits(split)
        self._digits = [trim(digit) for digit in digits]
        self._labels = labels
        self.backgrounds = Backgrounds(split)

    def __len__(self) -> int:
        return self.count

    def load(self, index: int) -> tuple[Tensor, Mask]:
        """A scene, 3 x side x side uint8, and its mask: 1 + the digit where its ink is seen."""
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        random = np.random.default_rng((*self._stream, index))
        scene = self._background(random)
        mask: Mask = np.zeros((self.side, self.side), dtype=np.uint8)
        things = (
            ["digit"] * int(random.integers(_FEWEST_DIGITS, _MOST_DIGITS + 1))
            + ["scribble"] * int(random.integers(_MOST_SCRIBBLES + 1))
            + ["patch"] * int(random.integers(_MOST_PATCHES + 1))
        )
        for thing in random.permutation(things):
            if thing == "patch":
                self._lay_patch(random, scene, mask)
            elif thing == "scribble":
                self._write(random, scene, mask, _scribble(random), label=0)
            else:
                chosen = int(random.integers(len(self._digits)))
                self._write(random, scene, mask, self._digits[chosen], label=1 + int(self._labels[chosen]))
        return torch.from_numpy(scene.transpose(2, 0, 1).copy()), mask

    def _background(self, random: np.random.Generator) -> Pixels:
        return self.backgrounds.crop(random, self.side) // _DARKER

    def _write(
        self, random: np.random.Generator, scene: Pixels, mask: Mask, glyph: Pixels, label: int
    ) -> None:
        """Put a glyph somewhere upon a scene, and its class into the mask."""
        height = max(4, round(random.uniform(_SMALLEST, _LARGEST) * self.side))
        width = min(self.side, max(1, round(height * (glyph.shape[1] + 2) / (glyph.shape[0] + 2))))
        # A margin lets the ink at its rim fade, too.
        turned = Image.fromarray(resize(np.pad(glyph, 1), width, height)).rotate(
            random.uniform(-_STEEPEST, _STEEPEST), Image.Resampling.BILINEAR, expand=True
        )
        soft = np.array(turned)[: self.side, : self.side].astype(np.int64)
        opacity = ((soft - _INK) * _SHARPNESS + _INK).clip(0, 255).astype(np.uint8)
        height, width = opacity.shape
        part = self._emptiest(random, mask, height, width)
        covered = scene[part][opacity >= _INK].mean(axis=0)
        contrast = random.integers(_LEAST_CONTRAST, _MOST_CONTRAST + 1)
        ink = covered + contrast + random.integers(-_TINT, _TINT + 1, size=3)
        blend(scene[part], ink.clip(0, 255).astype(np.int64), opacity)
        mask[part][opacity >= _INK] = label

    def _emptiest(
        self, random: np.random.Generator, mask: Mask, height: int, width: int
    ) -> tuple[slice, slice]:
        """Of some places of a size, the one where the least is written already."""
        places = [
            (slice(top, top + height), slice(left, left + width))
            for top, left in random.integers(0, (self.side - height + 1, self.side - width + 1), (_PLACES, 2))
        ]
        return min(places, key=lambda place: np.count_nonzero(mask[place]))

    def _lay_patch(self, random: np.random.Generator, scene: Pixels, mask: Mask) -> None:
        """Put a part of a photograph somewhere upon a scene; what it hides is background."""
        sides = [max(1, round(random.uniform(*shares) * self.side)) for shares in _PATCH_SIDES]
        height, width = random.permutation(sides)
        top, left = (int(random.integers(self.side - length + 1)) for length in (height, width))
        part = (slice(top, top + height), slice(left, left + width))
        scene[part] = self._background(random)[part]
        mask[part] = 0


def _scribble(random: np.random.Generator) -> Pixels:
    """Strokes that are as thick and as soft as those of a digit, and none."""
    enlarged = 8
    sheet = Image.new("L", (_GLYPH_SIDE * enlarged, _GLYPH_SIDE * enlarged))
    points = random.integers(enlarged, (_GLYPH_SIDE - 1) * enlarged, size=(int(random.integers(4, 7)), 2))
    ImageDraw.Draw(sheet).line(
        [(int(x), int(y)) for x, y in points], fill=255, width=enlarged + enlarged // 2
    )
    small = sheet.resize((_GLYPH_SIDE, _GLYPH_SIDE), Image.Resampling.BOX)
    return trim(np.array(small))
