"""Numbers of things in messages."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, as people write it.

    Args:
        count: How many there are.
        noun: What one of them is called.
        plural: What several are called, where that is not the noun with an s.

    Example:
        >>> counted(1, "label"), counted(5120, "label"), counted(2, "class", "classes")
        ('1 label', '5,120 labels', '2 classes')
    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
