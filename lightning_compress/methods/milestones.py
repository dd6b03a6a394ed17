"""When quantization observes ranges, rounds to integers, and freezes batch norm: coremltools' four milestones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.schedule import FitLength, Point, check_point

_NAMES = ("observe", "fake-quantize", "stop observing", "freeze batch norm")

_SOURCE = "milestones of LinearQuantization"


class Milestones:
    """Four points of a fit, of which each takes effect after the optimizer step that follows it.

    Args:
        given: Optimizer steps, fractions of the fit, or -1 for never; None observes and rounds from the start.
    """

    def __init__(self, given: Sequence[Point] | None) -> None:
        self._given = given
        self._steps: list[int] | None = None
        if given is not None and all(isinstance(point, int) for point in given):
            self._steps = [int(point) for point in given]

    def resolve(self, length: FitLength) -> None:
        """Turn fractions of the fit into steps.

        Raises:
            ConfigurationError: Observing would end before it begins, or the fit is too short.
        """
        if self._given is None:
            return
        steps = [length.step_of(point, _SOURCE) for point in self._given]
        # A milestone takes effect after the optimizer step that follows it, and 1.0 is still within the fit.
        for index, (given, step) in enumerate(zip(self._given, steps, strict=True)):
            if isinstance(given, float) and step > 0:
                steps[index] = step - 1
        if length.rehearsal:
            # Nothing may be quantized before something was observed, however short the fit.
            steps[1:] = [step if step == -1 else max(step, steps[0] + 1) for step in steps[1:]]
        elif -1 != steps[2] <= steps[0]:
            raise ConfigurationError(
                f"{_SOURCE} stop observing at optimizer step {steps[2]}, and begin at {steps[0]}: no scale would be "
                "known; stop later, train longer, or give -1 for never"
            )
        self._steps = steps
        length.check(self.last_step, _SOURCE)

    @property
    def last_step(self) -> int:
        """The optimizer step after which the last of them has taken effect."""
        return max((step + 1 for step in self._steps or ()), default=0)

    def observes(self, step: int) -> bool:
        """Whether ranges are observed after `step` optimizer steps."""
        if self._given is None:
            return True
        return self._has_passed(0, step) and not self._has_passed(2, step)

    def quantizes(self, step: int) -> bool:
        """Whether values are rounded to integers after `step` optimizer steps."""
        return self._given is None or self._has_passed(1, step)

    def freezes(self, step: int) -> bool:
        """Whether batch norm is frozen after `step` optimizer steps."""
        return self._has_passed(3, step)

    def unfinished(self, step: int) -> str | None:
        """Which are still to come after `step` optimizer steps, or None."""
        if step >= self.last_step:
            return None
        pending = [
            f"{name} at {point}"
            for name, point in zip(_NAMES, self._steps or (), strict=True)
            if point >= step
        ]
        return f"quantization stands at step {step}; to come: {', '.join(pending)}"

    def _has_passed(self, index: int, step: int) -> bool:
        return self._steps is not None and self._steps[index] != -1 and step > self._steps[index]


class OnMilestones:
    """The schedule of a part that follows milestones.

    Attributes:
        milestones: They.
    """

    milestones: Milestones

    def resolve_schedule(self, length: FitLength) -> None:
        """Turn fractions of the fit into steps."""
        self.milestones.resolve(length)

    @property
    def last_step(self) -> int:
        """The optimizer step after which the last milestone has taken effect."""
        return self.milestones.last_step

    def unfinished(self, step: int) -> str | None:
        """Which milestones are still to come, or None."""
        return self.milestones.unfinished(step)


def check_milestones(milestones: Any, source: str) -> None:
    """Refuse milestones that no fit could keep.

    Raises:
        ConfigurationError: With the value, `source` and what is valid.
    """
    if not isinstance(milestones, list | tuple) or len(milestones) != 4:
        raise ConfigurationError(
            f"milestones of {source} is {milestones!r}; valid is a list of four: {', '.join(_NAMES)}"
        )
    for name, point in zip(_NAMES, milestones, strict=True):
        check_point(point, f"milestone {name!r} of {source}", unused=-1)
    observe, quantize = milestones[0], milestones[1]
    if observe == -1:
        raise ConfigurationError(
            f"milestones of {source} never observe (-1), so no scale would be known; valid is a step"
        )
    if quantize != -1 and type(observe) is type(quantize) and quantize < observe:
        raise ConfigurationError(
            f"milestones of {source} fake-quantize at {quantize}, before they observe at {observe}; valid is the same "
            "point or a later one"
        )
