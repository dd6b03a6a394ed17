"""Where fits and commands print, and what users' texts are printed as."""

from __future__ import annotations

import os

from rich.console import Console
from rich.text import Text

from lightning_compress.untrusted_text import plain_text

_FILE_WIDTH = 160
"""Columns where nobody says how many there are: names of layers stay on one line."""


def output_console() -> Console:
    """As wide as the terminal or the notebook; wide enough for names of layers in a file or a pipe.

    Names of users, of modules and folders among them, may look like markup or emoji: strings are printed as they are,
    and what has a style is a `Text`.
    """
    console = Console(markup=False, emoji=False)
    if not (console.is_terminal or console.is_jupyter or "COLUMNS" in os.environ):
        console.width = _FILE_WIDTH
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
    return Text(plain_text(text), style)
