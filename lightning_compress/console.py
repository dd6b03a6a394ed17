"""Where fits and commands print."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

FILE_WIDTH = 160
"""Columns of a file or a pipe, where nobody says how many there are."""

_ENDLESS = 100_000


def output_console() -> Console:
    """As wide as the terminal or the notebook."""
    from rich.console import Console

    console = Console()
    if _is_file(console) and "COLUMNS" not in os.environ:
        console.width = FILE_WIDTH
    return console


def print_whole(*tables: RenderableType) -> None:
    """Print tables; in a file or a pipe as wide as they need, so that nothing in them is folded."""
    from rich.measure import Measurement

    console = output_console()
    for table in tables:
        if _is_file(console):
            needed = Measurement.get(console, console.options.update(max_width=_ENDLESS), table).maximum
            console.width = max(console.width, needed)
        console.print(table)


def _is_file(console: Console) -> bool:
    return not (console.is_terminal or console.is_jupyter)
