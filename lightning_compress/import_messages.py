"""Keeps what other libraries log, and nobody here can act on, off the terminal."""

from __future__ import annotations

import logging

_MESSAGES = (
    # coremltools' runtime exists on macOS alone; everything here works without it.
    "Failed to load _ML",
    # Its range of tested versions ends before those that this package requires and tests.
    "scikit-learn version ",
    "Torch version ",
)


_TIPS = ("💡 Tip", "TPU available: False")
"""What Lightning 2.6 says at the start of each fit: advertisements, and hardware that nobody asked for."""


class _ImportMessageFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_MESSAGES + _TIPS)


def silence_import_messages() -> None:
    """Drop a dozen lines about missing macOS libraries; to be called before the first `import coremltools`."""
    _filter("coremltools")


def silence_tips() -> None:
    """Drop Lightning's advertisements from the output of a command, whose user cannot act on them."""
    _filter("lightning.pytorch.utilities.rank_zero")


def _filter(name: str) -> None:
    logger = logging.getLogger(name)
    if not any(isinstance(existing, _ImportMessageFilter) for existing in logger.filters):
        logger.addFilter(_ImportMessageFilter())
