"""The files of a package of unknown origin: inside it, ordinary, and no larger than they can be.

A link that leads out of a package would let whoever made it have any file of this machine read, and a file that grows
without end, or is a device, would fill its memory.
"""

from __future__ import annotations

import os
from pathlib import Path

from lightning_compress.errors import PackageError

LARGEST_MANIFEST = 2**20
"""Bytes. Those of real packages have under a thousand."""

LARGEST_MODEL = 2**29
"""Bytes. Large constants of ML Programs lie in weight files, which leaves a few megabytes for the largest models."""


def shown(path: str | os.PathLike[str]) -> str:
    """A path as messages show it: as it is, or quoted where it holds what a terminal would obey or cannot show."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)


def require_inside(file: Path, package: Path) -> None:
    """Raise unless a path, its links followed, stays inside its package.

    Args:
        file: Below `package` as it is named.
        package: The package's folder, which may itself be a link.

    Raises:
        PackageError: Naming the link and where it leads.
    """
    real = Path(os.path.realpath(file))
    if not real.is_relative_to(os.path.realpath(package)):
        raise PackageError(
            f"{shown(file)} leads outside its package, to {shown(real)}. Copy the package with its links followed "
            "(cp -RL) if you trust it."
        )


def read_bounded(file: Path, limit: int, kind: str) -> bytes:
    """The content of an ordinary file that is no larger than one of its kind can be.

    Args:
        file: What to read.
        limit: Most bytes that one of this kind has.
        kind: What it is, in words: "manifest".

    Raises:
        PackageError: If it is larger, or cannot be read.
    """
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > limit:
                raise PackageError(
                    f"{shown(file)} has {size:,} bytes, and a {kind} {limit:,} at most: it is damaged, or "
                    "something else."
                )
            return stream.read(limit + 1)
    except OSError as error:
        raise PackageError(f"{shown(file)} cannot be read: {error.strerror or error}.") from error


def regular_files(folder: Path) -> list[tuple[Path, int]]:
    """The ordinary files below a folder with their bytes, in order of their paths; links are not followed."""
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                found.append((path, path.lstat().st_size))
    return sorted(found)
