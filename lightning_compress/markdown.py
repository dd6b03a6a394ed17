"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = ()
) -> str:
    """A table, one line a row.

    Args:
        header: The headings.
        rows: Their cells; bars are escaped, and line breaks become spaces.
        right: Headings of the columns to set to the right.
    """
    rule = ["---:" if heading in right else "---" for heading in header]
    return "\n".join([_line(header), f"|{'|'.join(rule)}|", *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
