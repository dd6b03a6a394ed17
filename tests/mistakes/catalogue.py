"""All mistakes, by where they are made."""

from __future__ import annotations

from tests.mistakes.bench import Mistake
from tests.mistakes.commands import COMMANDS
from tests.mistakes.construction import COMPRESSION, EXPORT, METHODS
from tests.mistakes.fits import FITS, REHEARSED
from tests.mistakes.packages import PACKAGES

IN_PYTHON: dict[str, list[Mistake]] = {
    "Compression": COMPRESSION,
    "CoreMLExport": EXPORT,
    "methods": METHODS,
    "packages": PACKAGES,
    "a fit": FITS,
    "the rehearsal": REHEARSED,
}
"""Mistakes made in one process."""

MISTAKES: dict[str, list[Mistake]] = {**IN_PYTHON, "the command": COMMANDS}
"""Those that are typed too."""
