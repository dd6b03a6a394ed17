"""Text of unknown origin, such as names and descriptions in a package or in a user's module, made fit to be shown."""

from __future__ import annotations

import re
import unicodedata

_ESCAPE_SEQUENCES = re.compile(
    # CSI: colours, cursor movements; one that is cut off ends where it stops looking like one.
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    # OSC, DCS, SOS, PM, APC: titles, links, the clipboard; a string up to its end, or to the end of the line.
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    # What is left: one to three characters, such as a change of character set or a reset.
    r"|\x1b[ -/]*[0-~]?"
)
"""What a terminal obeys instead of showing it (ECMA-48), introduced by one character of 8 bits or by two of 7."""

_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Overrides of the direction of writing, which make what follows them look like another text."""

_KEPT = frozenset("\n\t")


def plain_text(text: str) -> str:
    r"""A text without anything that a terminal would obey: escape sequences, control characters, directions.

    Line breaks and tabs stay, those of other systems as `\n`. A lone surrogate, which no file or terminal takes,
    becomes the replacement character. What rich or Markdown would obey stays too: give rich a
    `rich.text.Text(plain_text(name))` or escape its markup; Markdown has `lightning_compress.markdown`.

    Args:
        text: From a package, a file, or names that users gave.

    Example:
        >>> plain_text("\x1b[31mred\x1b[0m\x07 cat")
        'red cat'
    """
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(map(_shown, _ESCAPE_SEQUENCES.sub("", unified)))


def _shown(character: str) -> str:
    if character in _KEPT:
        return character
    category = unicodedata.category(character)
    if category == "Cs":
        return "\N{REPLACEMENT CHARACTER}"
    return "" if category == "Cc" or character in _DIRECTIONS else character
