"""Where fits and commands print, and what users' texts are printed as."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

FILE_WIDTH = 160
"""Columns of a file or a pipe, where nobody says how many there are."""

_ENDLESS = 100_000


def output_console() -> Console:
    """As wide as the terminal or the notebook.

    Names of users, of modules and folders among them, may look like markup or emoji: strings are printed as they are,
    and what has a style is a `Text`.
    """
    from rich.console import Console

    console = Console(markup=False, emoji=False)
    if _is_file(console) and "COLUMNS" not in os.environ:
        console.width = FILE_WIDTH
    return console


def literal(text: str, style: str = "") -> Text:
    """A text as it is, in any table and on any console: without what rich or a terminal would obey.

    Args:
        text: A name or a description that a user has given.
        style: How it is to look.

    Example:
        >>> literal("[red]").plain
        '[red]'
    """
    from rich.text import Text

    from lightning_compress.untrusted_text import plain_text

    return Text(plain_text(text), style)


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
