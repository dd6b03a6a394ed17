"""Keeps what coremltools logs at its import, and nobody here can act on, off the terminal."""

from __future__ import annotations

import logging

_MESSAGES = (
    # coremltools' runtime exists on macOS alone; everything here works without it.
    "Failed to load _ML",
    # Its range of tested versions ends before those that this package requires and tests.
    "scikit-learn version ",
    "Torch version ",
)


class _ImportMessageFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_MESSAGES)


def silence_import_messages() -> None:
    """Drop a dozen lines about missing macOS libraries; to be called before the first `import coremltools`."""
    logger = logging.getLogger("coremltools")
    if not any(isinstance(existing, _ImportMessageFilter) for existing in logger.filters):
        logger.addFilter(_ImportMessageFilter())
