"""Pictures as part of a page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from lightning_compress.errors import PackageError
from lightning_compress.explore.record import Candidate, Exploration
from lightning_compress.explore.report.outcome import subject
from lightning_compress.explore.report.words import metric, size
from lightning_compress.package.files import read_bounded, require_inside

_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
}

_LARGEST = 2**25
"""Bytes. Sheets of samples have under two million."""


@dataclass(frozen=True)
class Picture:
    """What a package finds in samples.

    Attributes:
        name: Of the package.
        caption: What it is.
        address: The picture itself, as a `data:` address.
    """

    name: str
    caption: str
    address: str


def pictures(exploration: Exploration, folder: Path) -> list[Picture]:
    """Float16, then the package that the report is about; those whose files cannot be read are left out.

    Args:
        exploration: What a search found.
        folder: That of the search.
    """
    about = subject(exploration)
    shown = [
        *exploration.candidates[:1],
        *([] if about is None or about == exploration.candidates[0] else [about]),
    ]
    found = []
    for candidate in shown:
        address = _address(exploration.pictures.get(candidate.name), folder)
        if address is not None:
            found.append(Picture(candidate.name, _caption(exploration, candidate), address))
    return found


def _caption(exploration: Exploration, candidate: Candidate) -> str:
    value = f"{exploration.question.metric} {metric(candidate.value)}"
    return f"{candidate.name}: {size(candidate.package_bytes)}, {value}"


def _address(name: str | None, folder: Path) -> str | None:
    if name is None:
        return None
    path = folder / name
    kind = _TYPES.get(path.suffix.lower())
    if kind is None:
        return None
    try:
        require_inside(path, folder)
        content = read_bounded(path, _LARGEST, "picture")
    except PackageError:
        return None
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
