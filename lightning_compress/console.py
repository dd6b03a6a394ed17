"""Where fits and commands print."""

from __future__ import annotations

import os

from rich.console import Console

_FILE_WIDTH = 160
"""Columns where nobody says how many there are: names of layers stay on one line."""


def output_console() -> Console:
    """As wide as the terminal or the notebook; wide enough for names of layers in a file or a pipe."""
    console = Console()
    if not (console.is_terminal or console.is_jupyter or "COLUMNS" in os.environ):
        console.width = _FILE_WIDTH
    return console
