"""How sparse a tensor shall be after each optimizer step (Zhu & Gupta, arXiv 1710.01878)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.configuration import nearest_key
from lightning_compress.methods.mechanism.schedule import (
    FitLength,
    Point,
    check_order,
    check_point,
    expand_range,
)

_KEYS = ("begin_step", "end_step", "updates", "update_steps", "power")
_DEFAULT_UPDATES = 50


@dataclass(frozen=True)
class SparsitySchedule:
    """The sparsity by optimizer step.

    Attributes:
        updates: Steps at which the sparsity changes, ascending, the first optimizer step being 1.
        power: Exponent of the polynomial between the initial and the target sparsity.
        is_constant: Whether the target holds from the first update on, whatever was before.
    """

    updates: Sequence[int]
    power: int = 3
    is_constant: bool = False

    @property
    def last_step(self) -> int:
        """The last step at which anything changes."""
        return max(self.updates[-1], 1)

    def level(self, step: int, previous: float, initial: float, target: float) -> float:
        """The sparsity after optimizer step `step`.

        Args:
            step: Number of optimizer steps taken.
            previous: The sparsity before.
            initial: The sparsity at the beginning.
            target: The sparsity at the end.
        """
        if self.is_constant:
            return target if step >= self.updates[0] else previous
        if step not in self.updates:
            return previous
        progress = 1.0 if len(self.updates) == 1 else self.updates.index(step) / (len(self.updates) - 1)
        remaining: float = (1.0 - progress) ** self.power
        return target + (initial - target) * remaining


def resolve_schedule(keys: Mapping[str, Any] | None, length: FitLength, source: str) -> SparsitySchedule:
    """A schedule in steps.

    Args:
        keys: What the user gave, checked; None for the target from the beginning.
        length: How long the fit is.
        source: Where the keys come from, for errors.

    Raises:
        ConfigurationError: The schedule does not end within the fit, or the fit's length is unknown.
    """
    keys = keys or {"begin_step": 0}
    if "update_steps" not in keys and "end_step" not in keys:
        schedule = SparsitySchedule([length.step_of(keys["begin_step"], source)], is_constant=True)
    elif "update_steps" in keys:
        given: list[Point] = expand_range(keys["update_steps"], source)
        steps = sorted({length.step_of(point, source) for point in given})
        schedule = SparsitySchedule(steps if steps[-1] > 0 else [1], keys.get("power", 3))
    else:
        # The first optimizer step is 1: an update at 0 never comes.
        begin = max(length.step_of(keys.get("begin_step", 0), source), 1)
        end = max(length.step_of(keys["end_step"], source), begin)
        updates = min(keys.get("updates", _DEFAULT_UPDATES), end - begin + 1)
        spread = {round(begin + (end - begin) * index / max(updates - 1, 1)) for index in range(updates)}
        schedule = SparsitySchedule(sorted(spread | {end}), keys.get("power", 3))
    length.check(schedule.last_step, source)
    return schedule


def check_schedule(scheduler: Any, source: str) -> None:
    """Refuse a schedule that cannot be.

    Raises:
        ConfigurationError: With the value, `source` and what is valid.
    """
    if scheduler is None:
        return
    where = f"scheduler of {source}"
    if not isinstance(scheduler, Mapping) or not scheduler:
        raise ConfigurationError(f"{where} is {scheduler!r}; valid is a mapping with keys of {list(_KEYS)}")
    for key in scheduler:
        if key not in _KEYS:
            raise ConfigurationError(nearest_key(key, where, _KEYS))
    if "update_steps" in scheduler:
        _check_update_steps(scheduler, where)
    elif "end_step" in scheduler:
        begin = check_point(scheduler.get("begin_step", 0), f"begin_step in {where}")
        end = check_point(scheduler["end_step"], f"end_step in {where}")
        check_order(begin, end, where)
        updates = scheduler.get("updates", _DEFAULT_UPDATES)
        if isinstance(updates, bool) or not isinstance(updates, int) or updates < 1:
            raise ConfigurationError(f"updates in {where} is {updates!r}; valid is an int from 1")
    elif "begin_step" in scheduler:
        check_point(scheduler["begin_step"], f"begin_step in {where}")
        surplus = sorted(set(scheduler) - {"begin_step"})
        if surplus:
            raise ConfigurationError(
                f"{where} has {surplus} without end_step or update_steps, where they have no meaning"
            )
    else:
        raise ConfigurationError(
            f"{where} is {dict(scheduler)!r}; valid are begin_step, end_step or update_steps"
        )
    power = scheduler.get("power", 3)
    if isinstance(power, bool) or not isinstance(power, int) or power < 1:
        raise ConfigurationError(f"power in {where} is {power!r}; valid is an int from 1")


def _check_update_steps(scheduler: Mapping[str, Any], where: str) -> None:
    clash = sorted(set(scheduler) - {"update_steps", "power"})
    if clash:
        raise ConfigurationError(
            f"{where} has {clash} beside update_steps; give the steps or their range, not both"
        )
    points = [
        check_point(point, f"update_steps in {where}")
        for point in expand_range(scheduler["update_steps"], where)
    ]
    if len({type(point) for point in points}) > 1:
        raise ConfigurationError(f"update_steps in {where} mixes steps and fractions; give one kind")
    if points != sorted(set(points)):
        raise ConfigurationError(f"update_steps in {where} is {points}; valid are steps in rising order")
    if points == [0]:
        raise ConfigurationError(
            f"update_steps in {where} is [0], which never comes: the first optimizer step is 1; give 1 or later"
        )
