"""Values of a configuration in the words of the command line."""

from __future__ import annotations

from typing import Any


def as_typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{as_typed(entry)}" for key, entry in value.items()) + "}"
    return str(value)
