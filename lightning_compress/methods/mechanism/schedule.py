"""Points of a schedule, given in optimizer steps or as fractions of the fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_compress.errors import ConfigurationError

Point = int | float
"""A point of a schedule: an `int` counts optimizer steps, a `float` in [0, 1] is a fraction of the fit."""


def check_point(value: Any, source: str, *, unused: int | None = None) -> Point:
    """Return `value` if it is a point of a schedule.

    Args:
        value: What the user gave.
        source: Where it came from, for the message.
        unused: A value that means "never", if the schedule knows one.

    Raises:
        ConfigurationError: The value is neither a step count nor a fraction.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(
            f"{source} is {value!r}; valid are optimizer steps (an int from 0) or a fraction of the fit "
            f"(a float from 0.0 to 1.0)"
        )
    if isinstance(value, int):
        if value >= 0 or value == unused:
            return value
    elif 0.0 <= value <= 1.0:
        return value
    never = f", or {unused} for never" if unused is not None else ""
    raise ConfigurationError(
        f"{source} is {value!r}; valid are optimizer steps (an int from 0) or a fraction of the fit "
        f"(a float from 0.0 to 1.0){never}"
    )


def check_order(begin: Point, end: Point, where: str) -> None:
    """Refuse points of one kind of which the second is not after the first.

    Args:
        begin: Where something begins.
        end: Where it ends.
        where: What they are of, for the message.

    Raises:
        ConfigurationError: With both points.
    """
    if type(begin) is type(end) and end <= begin:
        raise ConfigurationError(f"{where} ends at {end}, not after its begin_step {begin}")


@dataclass(frozen=True)
class FitLength:
    """How long a fit is, and where in it a point of a schedule lies.

    Attributes:
        steps: Optimizer steps of the whole fit; infinity where Lightning cannot know (`max_time` alone).
        rehearsal: The fit only rehearses the code (`fast_dev_run`): a schedule that does not fit is cut short.
    """

    steps: int | float
    rehearsal: bool = False

    def step_of(self, point: Point, source: str) -> int:
        """The optimizer step of `point`; a fraction of 1.0 is the last step.

        Raises:
            ConfigurationError: The point is a fraction and the length of the fit is unknown.
        """
        if isinstance(point, int):
            return point
        if math.isinf(self.steps) or self.steps < 0:
            raise ConfigurationError(
                f"{source} is {point}, a fraction of the fit, but the length of the fit is unknown; give it in "
                f"optimizer steps, or set the Trainer's max_steps or max_epochs"
            )
        return round(point * self.steps)

    def check(self, last_step: int, source: str) -> None:
        """Refuse a schedule whose last step the fit never reaches.

        Raises:
            ConfigurationError: With both lengths.
        """
        if self.rehearsal or math.isinf(self.steps) or self.steps < 0:
            return
        if last_step > self.steps:
            raise ConfigurationError(
                f"{source} ends at optimizer step {last_step}, but the fit has {self.steps}; shorten "
                "the schedule, give "
                f"it as fractions of the fit, or train longer"
            )


def expand_range(value: Any, source: str) -> list[Any]:
    """The update steps of a pruning schedule: a list as it is, coremltools' `"range(start, end, step)"` expanded.

    Raises:
        ConfigurationError: The value is neither, or empty.
    """
    if isinstance(value, str):
        text = value.strip()
        try:
            if not (text.startswith("range(") and text.endswith(")")):
                raise ValueError
            value = list(range(*(int(part) for part in text[len("range(") : -1].split(","))))
        except (ValueError, TypeError):
            raise ConfigurationError(
                f'{source} is "{text}"; valid is a list of steps or "range(start, end, step)"'
            ) from None
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) == 0:
        raise ConfigurationError(f"{source} is {value!r}; valid is a list with at least one step")
    return list(value)
