"""Where the parts of a package lie, for tests that damage them."""

from __future__ import annotations

from pathlib import Path


def model_file(package: Path) -> Path:
    """The file of its program."""
    return next(package.rglob("model.mlmodel"))


def weight_file(package: Path) -> Path:
    """The file of its weights."""
    return next(package.rglob("weight.bin"))
