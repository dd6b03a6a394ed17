"""A temperature that falls while a model trains, so that soft assignment ends as a hard one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.configuration import nearest_key
from lightning_compress.methods.mechanism.schedule import FitLength, Point, check_point

_KEYS = ("begin_step", "end_step", "palett_tau")


@dataclass(frozen=True)
class Annealing:
    """Points between which the temperature falls by the same factor at every optimizer step.

    Attributes:
        begin_step: Until when the temperature is the first one.
        end_step: From when on it is the last one.
        palett_tau: The last temperature, in squared units of the weights.
    """

    palett_tau: float
    begin_step: Point = 0.0
    end_step: Point = 1.0

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Annealing | None:
        """From checked keys; None for a temperature that stays."""
        return None if given is None else cls(**given)

    def resolve(self, first: float, length: FitLength, source: str) -> Temperature:
        """The temperature by step.

        Args:
            first: The temperature it falls from.
            length: How long the fit is.
            source: Whose temperature it is, for errors.

        Raises:
            ConfigurationError: It does not end within the fit, or the fit's length is unknown.
        """
        begin = length.step_of(self.begin_step, source)
        end = max(length.step_of(self.end_step, source), begin + 1)
        # A fit of one step has none left to fall over.
        length.check(end if isinstance(self.end_step, int) else begin, source)
        return Temperature(first, self.palett_tau, begin, end)


@dataclass(frozen=True)
class Temperature:
    """The temperature by optimizer step.

    Attributes:
        first: Up to `begin`.
        last: From `end` on.
        begin: Number of optimizer steps taken when it begins to fall.
        end: Number of optimizer steps taken when it has fallen.
    """

    first: float
    last: float
    begin: int
    end: int

    def at(self, step: int) -> float:
        """The temperature of the pass that follows `step` optimizer steps."""
        progress = min(max((step - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return self.first * math.pow(self.last / self.first, progress)


def check_annealing(given: Any, first: float, source: str) -> None:
    """Refuse an annealing that cannot be.

    Args:
        given: What the user gave, or None.
        first: The temperature it falls from.
        source: Where it came from, for messages.

    Raises:
        ConfigurationError: With the value, `source` and what is valid.
    """
    if given is None:
        return
    where = f"annealing of {source}"
    if not isinstance(given, Mapping) or "palett_tau" not in given:
        raise ConfigurationError(
            f"{where} is {given!r}; valid is null, or a mapping with palett_tau, the last temperature, and, if they "
            "are not the fit's, begin_step and end_step"
        )
    for key in given:
        if key not in _KEYS:
            raise ConfigurationError(nearest_key(key, where, _KEYS))
    last = given["palett_tau"]
    if isinstance(last, bool) or not isinstance(last, int | float) or not 0 < last <= first:
        raise ConfigurationError(
            f"palett_tau in {where} is {last!r}; valid is a float above 0 and at most the palett_tau that it falls "
            f"from, {first:g}"
        )
    begin = check_point(given.get("begin_step", 0.0), f"begin_step in {where}")
    end = check_point(given.get("end_step", 1.0), f"end_step in {where}")
    if type(begin) is type(end) and end <= begin:
        raise ConfigurationError(f"{where} ends at {end}, not after its begin_step {begin}")
