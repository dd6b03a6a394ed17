"""The importance of every weight on the disk, for the processes that make candidates of one search."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_compress.package.save import write_whole

IMPORTANCE = "importance.pt"


class ImportanceFile:
    """Written once by the process that searches, and read by the others.

    Args:
        path: Of the file.
        digest: Of the weights and of all that importance depends on.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self._path = path
        self._digest = digest

    def read(self) -> dict[str, Tensor] | None:
        """By name of the tensor, the importance of each element; None where the file is none, or of other weights."""
        if not self._path.is_file():
            return None
        content: Any = torch.load(self._path, map_location="cpu", weights_only=True)
        return content["importance"] if content["digest"] == self._digest else None

    def write(self, importance: Mapping[str, Tensor]) -> None:
        """Write it, whole or not at all."""
        content = io.BytesIO()
        torch.save({"digest": self._digest, "importance": dict(importance)}, content)
        write_whole(self._path, content.getvalue())
