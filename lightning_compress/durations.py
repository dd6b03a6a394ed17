"""Lengths of time in messages and tables."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A duration as people say it.

    Example:
        >>> [duration(value) for value in (0.4, 50, 200, 8000)]
        ['1 s', '50 s', '3 min', '2 h 13 min']
    """
    if seconds < 99.5:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
