"""Numbers of a configuration that must lie in a range."""

from __future__ import annotations

import math

from lightning_compress.errors import ConfigurationError


def require_between(
    name: str, value: float, low: float, high: float = math.inf, *, above: bool = False, below: bool = False
) -> None:
    """Refuse a number that is out of range.

    Args:
        name: What it is called in the configuration.
        value: The number.
        low: The least that is valid.
        high: The largest that is valid.
        above: Whether `low` itself is out of range.
        below: Whether `high` itself is out of range.

    Raises:
        ConfigurationError: It is out of range, or no number.
    """
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if numeric and (low < value if above else low <= value) and (value < high if below else value <= high):
        return
    least = f"{'above' if above else 'from'} {low:g}"
    most = "" if high == math.inf else f" {'and below' if below else 'to'} {high:g}"
    raise ConfigurationError(f"{name}={value!r} is out of range; valid are numbers {least}{most}.")
