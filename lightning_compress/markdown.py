"""Markdown of texts of unknown origin: each is shown as it is, and nothing in it is obeyed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from lightning_compress.untrusted_text import plain_text

_SPECIAL = re.compile(r"[\\`*_\[\]<>&~|$]")
"""What begins emphasis, code, links, pictures, HTML, entities, cells and formulas, wherever it stands."""

_SPECIAL_AT_START = re.compile(r"^(?:(?=[#+\-=])|(\d{1,9})(?=[.)](?:\s|$)))", re.MULTILINE)
"""What begins a heading, a list or a rule at the start of a line, and nothing after it."""

_INDENTED = re.compile(r"^[ \t]+", re.MULTILINE)
"""Four spaces, or a tab, begin a block of code."""

_ADDRESS = re.compile(r"(?i)(?=://)|(?<=www)(?=\.)")
"""Where readers of Markdown make links of bare addresses."""


def escaped(text: str) -> str:
    """A text as Markdown shows it: in paragraphs and lines of its own, and no markup, HTML or link in it."""
    return _SPECIAL_AT_START.sub(r"\1\\", escaped_inside(_INDENTED.sub("", plain_text(text))))


def escaped_inside(text: str) -> str:
    """A text as Markdown shows it inside a line, such as in a cell, where no heading, list or rule begins."""
    return _ADDRESS.sub(r"\\", _SPECIAL.sub(r"\\\g<0>", plain_text(text)))


def code_span(text: str) -> str:
    """A text in the type of code, whatever backticks are in it."""
    shown = " ".join(plain_text(text).split())
    fence = _fence(shown, 1)
    space = " " if not shown or shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{space}{shown}{space}{fence}"


def code_block(text: str, language: str = "") -> str:
    """A text as a block of code, whatever fences are in it."""
    shown = plain_text(text)
    fence = _fence(shown, 3)
    return f"{fence}{language}\n{shown}\n{fence}"


def _fence(text: str, least: int) -> str:
    """One backtick more than the longest run in a text."""
    return "`" * max([least, *(len(run) + 1 for run in re.findall("`+", text))])


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = ()
) -> str:
    """A table, one line a row.

    Args:
        header: The headings.
        rows: Their cells, as Markdown; bars that are not escaped yet are, and line breaks become spaces.
        right: Headings of the columns to set to the right.
    """
    rule = ["---:" if heading in right else "---" for heading in header]
    return "\n".join([_line(header), f"|{'|'.join(rule)}|", *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_BAR.sub(r"\\|", cell).replace("\n", " ") for cell in cells) + " |"


_BAR = re.compile(r"(?<!\\)\|")
