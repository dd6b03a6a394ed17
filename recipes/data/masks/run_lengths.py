"""COCO's run lengths: how many pixels, column by column, are outside of an object, inside, outside, and so on.

pycocotools 2.0.11 writes and joins them, and does not read them here: its `decode` reads past a text that is cut off,
leaves pixels that no run reaches as the memory was, and warns under numpy 2 of what it does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def read_run_lengths(text: str) -> list[int]:
    """The run lengths in COCO's text; some are negative where it is none.

    A character holds five bits of a number, lowest first, and whether more follow. From the fourth number on it is
    the difference to the number two before.
    """
    numbers: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return [-1]
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value = shift = 0
    return numbers if shift == 0 else [-1]


def covered_by(lengths: Sequence[int], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Whether each pixel is inside, height x width.

    Args:
        lengths: All of the image's pixels together.
        height: Of the image.
        width: Of the image.
    """
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T
