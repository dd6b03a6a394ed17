"""What Lightning says of each Trainer, which is enough to be told once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_notices() -> Iterator[None]:
    """Lightning introduces itself for each Trainer; once a fit is enough."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
