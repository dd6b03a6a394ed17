"""Limits as they are typed: drops, sizes and durations, told of before anything that takes time is loaded."""

from __future__ import annotations

import math
import re

from lightning_compress.errors import ConfigurationError

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}
_QUANTITY = re.compile(r"(?P<number>\d+(?:\.\d*)?)\s*(?P<unit>[A-Za-z]*)")
_SECONDS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


def check_limits(
    max_drop: str | float | None, max_size: str | int | None, budget: str | float | None
) -> None:
    """Refuse limits that no search could keep to.

    Args:
        max_drop: As `explore.max_drop`.
        max_size: As `explore.max_size`.
        budget: As `explore.budget`.

    Raises:
        ConfigurationError: There is no limit, or one is not what it should be.
    """
    if max_drop is None and max_size is None:
        raise ConfigurationError(
            "a search needs a limit: explore.max_drop, such as 0.01 or 1%, explore.max_size, such as 4MB, or both"
        )
    if max_drop is not None:
        parse_drop(max_drop, 1.0, "explore.max_drop")
    if max_size is not None:
        parse_size(max_size, "explore.max_size")
    if budget is not None:
        parse_duration(budget, "explore.budget")


def parse_size(given: str | int | float, key: str) -> int:
    """Bytes of a size such as "4MB", "900 kB" or 4000000.

    Raises:
        ConfigurationError: It is none.

    Example:
        >>> parse_size("3.2MB", "explore.max_size")
        3200000
    """
    match = _QUANTITY.fullmatch(str(given).strip())
    unit = None if match is None else _UNITS.get(match["unit"].lower())
    if isinstance(given, bool) or match is None or unit is None or float(match["number"]) <= 0:
        raise ConfigurationError(
            f"{key}={given!r} is no size; valid are bytes, or such as 900kB, 4MB and 3.5MiB"
        )
    return round(float(match["number"]) * unit)


def parse_duration(given: str | int | float, key: str) -> float:
    """Seconds of a duration such as "2h", "30min", "90s" or 90.

    Raises:
        ConfigurationError: It is none.
    """
    match = _QUANTITY.fullmatch(str(given).strip())
    unit = None if match is None else _SECONDS.get(match["unit"].lower() or "s")
    if isinstance(given, bool) or match is None or unit is None or float(match["number"]) <= 0:
        raise ConfigurationError(
            f"{key}={given!r} is no duration; valid are seconds, or such as 90s, 30min and 2h"
        )
    return float(match["number"]) * unit


def parse_drop(given: str | int | float, float_value: float, key: str) -> float:
    """How much worse a metric may be, in its unit: 0.01, or "1%" of float's.

    Raises:
        ConfigurationError: It is none, or negative.
    """
    text = str(given).strip()
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = math.nan
    if isinstance(given, bool) or not math.isfinite(number) or number < 0:
        raise ConfigurationError(
            f"{key}={given!r} is no drop; valid are numbers from 0 in the unit of the metric, such as 0.01, or shares "
            "of float's such as 1%"
        )
    return number / 100 * abs(float_value) if text.endswith("%") else number
