"""How far a package may be from the module that it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lightning_compress.arguments import require_number, require_type
from lightning_compress.coreml.detector import COORDINATES
from lightning_compress.errors import ConfigurationError


@dataclass(frozen=True)
class Tolerance:
    """The largest difference allowed, output by output.

    Args:
        relative: As a share of the output's largest magnitude, for every output without an absolute one. For
            probabilities, whose largest is near 1, it is about the difference in probability.
        absolute: By name of output, in the output's own unit: `{"coordinates": 1 / 300}` is one pixel of an
            image of 300 pixels where boxes are given in shares of its sides.
        mean: Largest share that the mean difference of an output may have of what is allowed to its largest.
            An error of float16 lies in few values; a wrong weight moves all of them.
        unequal: Share of the elements of an output of labels, such as the class of each pixel, that may be others than
            the module's; three times the share is allowed besides that changes when the module itself is
            rounded, because between two classes that are as likely anything decides.
        times_rounding: How many times what rounding does to the module itself is allowed besides: what its output
            moves by, at most and on average, when its numbers are rounded to float16 and its inputs are off by as
            much.

    Raises:
        ConfigurationError: If a value is not positive, or `times_rounding` negative.
    """

    relative: float = 5e-2
    absolute: Mapping[str, float] = field(default_factory=dict)
    mean: float = 0.2
    unequal: float = 0.01
    times_rounding: float = 0.0

    def __post_init__(self) -> None:
        require_type(
            "absolute of a tolerance", self.absolute, Mapping, "a mapping from names of outputs to numbers"
        )
        given = {"relative": self.relative, "mean": self.mean, "unequal": self.unequal}
        given.update({f"absolute[{name!r}]": value for name, value in self.absolute.items()})
        for name, value in given.items():
            require_number(f"{name} of a tolerance", value)
            if not value > 0:
                raise ConfigurationError(f"{name}={value!r} of a tolerance is not positive")
        require_number("times_rounding of a tolerance", self.times_rounding)
        if not self.times_rounding >= 0:
            raise ConfigurationError(f"times_rounding={self.times_rounding!r} of a tolerance is negative")

    def allowed(self, output: str, largest: float) -> float:
        """The largest difference allowed in an output whose largest magnitude is `largest`."""
        # Where an output is 0 throughout there is nothing to be relative to.
        return self.absolute.get(output, self.relative * max(largest, 1e-3))


_RELATIVE = {"float16": 5e-2, "float32": 1e-3}
"""Half precision moves the probabilities of a ResNet50 by 2% early in its training, and a wrong program by far more."""

TIMES_ROUNDING = 3.0
"""How many times what rounding does to a module with quantized activations its package may be apart from it."""


def default_tolerance(
    compute_precision: str, *, box: float | None = None, quantized_activations: bool = False
) -> Tolerance:
    """The tolerance of an export that asks for none.

    An output may be apart by 5% of its largest value and by 1% on average, a fiftieth of both in float32, and a
    detector's boxes by `box`. In half precision, and with quantized activations in any, three times what the module
    differs from itself when its numbers are rounded to float16 is allowed besides: deep networks that are hardly
    trained multiply any rounding, and a value between two integers falls to one or the other by any rounding, and
    moves later values over their steps. A package that is right is as far from its module as the module is from
    itself.

    Args:
        compute_precision: "float16" or "float32".
        box: How far a detector's boxes may be off, in shares of the image's sides; None where there are none.
        quantized_activations: Whether the package computes with quantized activations.
    """
    return Tolerance(
        _RELATIVE[compute_precision],
        {} if box is None else {COORDINATES: box},
        times_rounding=TIMES_ROUNDING if quantized_activations or compute_precision == "float16" else 0.0,
    )
