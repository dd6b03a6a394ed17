"""Numbers of a report, as all of its tables write them."""

from __future__ import annotations

import math
from typing import Literal

from lightning_compress.package.rendering import format_bytes

UNKNOWN = "-"
"""What stands where nothing is known."""


def metric(value: float, error: float | None = None, sign: Literal["-", "+"] = "-") -> str:
    """A metric, with its standard error where that is known: of a few samples it is not.

    Args:
        value: The metric, or a difference of two.
        error: Its standard error.
        sign: "+" to write the sign of a positive one, too.

    Example:
        >>> metric(0.5481), metric(0.5481, 0.0062)
        ('0.5481', '0.5481 ± 0.0062')
    """
    shown = f"{value:{sign}.4f}"
    return shown if error is None or math.isnan(error) else f"{shown} ± {error:.4f}"


def moved(value: float | None) -> str:
    """How far outputs move.

    Example:
        >>> moved(0.00312), moved(80.597), moved(None)
        ('0.0031', '80.6', '-')
    """
    if value is None:
        return UNKNOWN
    if abs(value) >= 1:
        return f"{value:.4g}"
    return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.2g}"


def times_smaller(count: int, reference: int) -> str:
    """How often a package goes into the float16 one.

    Example:
        >>> times_smaller(2_000_000, 9_500_000)
        '4.75'
    """
    return f"{reference / count:.2f}" if count else UNKNOWN


def size(count: int) -> str:
    """Bytes of packages and tensors.

    Example:
        >>> size(3_212_345), size(143_210)
        ('3.21 MB', '143.2 kB')
    """
    if count < 0:
        return f"-{size(-count)}"
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else format_bytes(count)
