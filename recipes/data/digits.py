"""scikit-learn's handwritten digits, split once for every use."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

#: The first samples train. The file lists them in the order in which they were written, so the writers of the
#: last 360 differ from those before.
TRAIN_COUNT = 1437

CLASS_NAMES = [str(digit) for digit in range(10)]


def read_digits(split: Literal["train", "val"]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The digits of a split: images N x 8 x 8 of ink from 0 to 255, and the digit of each."""
    digits = load_digits()
    chosen = slice(0, TRAIN_COUNT) if split == "train" else slice(TRAIN_COUNT, None)
    # Ink comes in 17 steps, 0 to 16.
    images = (digits.images[chosen] * 255 / 16).round().astype(np.uint8)
    return images, digits.target[chosen].astype(np.int64)
