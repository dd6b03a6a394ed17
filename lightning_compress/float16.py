"""Counting float16 values through a 16-bit view, without sorting them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def count_patterns(array: npt.NDArray[np.float16]) -> npt.NDArray[np.int64]:
    """How often each bit pattern occurs in a float16 array.

    Args:
        array: Any shape.

    Returns:
        Shape (65536,), by pattern. Negative zero is counted as positive zero, whose pattern is 0.

    Raises:
        ValueError: If the array is not float16.
    """
    if array.dtype != np.float16:
        raise ValueError(f"count_patterns counts float16 values, not {array.dtype}")
    counts = np.bincount(np.ascontiguousarray(array).reshape(-1).view(np.uint16), minlength=1 << 16)
    counts[0] += counts[1 << 15]
    counts[1 << 15] = 0
    return counts
