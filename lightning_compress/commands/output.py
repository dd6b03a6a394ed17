"""Files that a command writes because the user named them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning_compress.errors import ConfigurationError


def write_json(path: str, content: Any) -> None:
    """Write what a command found, for other programs.

    Args:
        path: Where to; its folder must be there.
        content: What json can hold; paths and the like are written as text.

    Raises:
        ConfigurationError: It cannot be written there.
    """
    try:
        Path(path).write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"json={path!r} cannot be written: {error.strerror or error}") from error
