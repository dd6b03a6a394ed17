"""Reports, tables and cards never stand between training and the package."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def nice_to_have(what: str) -> Iterator[None]:
    """Do something that nobody trains for, and warn where it fails.

    Args:
        what: What is lost then, as the warning begins: "the table of layers".

    Example:
        >>> with nice_to_have("the table of layers"):
        ...     print("layer")
        layer
    """
    try:
        yield
    except Exception as error:
        # The frame of contextlib stands between.
        warnings.warn(f"{what} is left out: {type(error).__name__}: {error}", stacklevel=3)
