"""A temperature that falls while a model trains, so that soft assignment ends as a hard one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.configuration import nearest_key
from lightning_compress.methods.mechanism.schedule import FitLength, Point, check_order, check_point

_KEYS = ("factor", "begin_step", "end_step")


@dataclass(frozen=True)
class Annealing:
    """Points between which the temperature falls by the same factor at every optimizer step.

    Attributes:
        factor: What share of the first temperature the last one is.
        begin_step: Until when the temperature is the first one.
        end_step: From when on it is the last one.
    """

    factor: float
    begin_step: Point = 0.0
    end_step: Point = 1.0

    def resolve(self, length: FitLength, source: str) -> Cooling:
        """The share of the first temperature by step.

        Args:
            length: How long the fit is.
            source: What is annealed, for errors.

        Raises:
            ConfigurationError: It does not end within the fit, or the fit's length is unknown.
        """
        begin, end = length.step_of(self.begin_step, source), length.step_of(self.end_step, source)
        if isinstance(self.begin_step, float):
            # In a short fit two fractions may be one step; it shall end as it was asked to nevertheless.
            begin = max(min(begin, end - 1), 0)
        end = max(end, begin + 1)
        length.check(end, source)
        return Cooling(self.factor, begin, end)


@dataclass(frozen=True)
class Cooling:
    """The share of the first temperature by optimizer step: 1 up to `begin`, `factor` from `end` on.

    Attributes:
        factor: The last share.
        begin: Number of optimizer steps taken when the temperature begins to fall.
        end: Number of optimizer steps taken when it has fallen.
    """

    factor: float
    begin: int
    end: int

    def at(self, step: int) -> float:
        """The share in the pass that follows `step` optimizer steps."""
        progress = min(max((step - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return math.pow(self.factor, progress)


def check_annealing(given: Any, source: str) -> None:
    """Refuse an annealing that cannot be.

    Args:
        given: What the user gave, or None.
        source: Where it came from, for messages.

    Raises:
        ConfigurationError: With the value, `source` and what is valid.
    """
    if given is None:
        return
    where = f"annealing of {source}"
    if not isinstance(given, Mapping) or "factor" not in given:
        raise ConfigurationError(
            f"{where} is {given!r}; valid is null, or a mapping with factor, the share of the first temperature that "
            "is left at the end, and, where they are not the fit's, begin_step and end_step"
        )
    for key in given:
        if key not in _KEYS:
            raise ConfigurationError(nearest_key(key, where, _KEYS))
    factor = given["factor"]
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= 1:
        raise ConfigurationError(f"factor in {where} is {factor!r}; valid is a float above 0 and at most 1")
    begin = check_point(given.get("begin_step", 0.0), f"begin_step in {where}")
    end = check_point(given.get("end_step", 1.0), f"end_step in {where}")
    check_order(begin, end, where)
