"""How far the outputs of a package are from those of the module that it was made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_compress.coreml.detector import CONFIDENCE, COORDINATES
from lightning_compress.coreml.tolerance import TIMES_ROUNDING, Tolerance
from lightning_compress.errors import VerificationError

Named = Mapping[str, Tensor]
"""Outputs of one sample by name."""


class Rounding(NamedTuple):
    """Outputs of one module as it is, and with its numbers rounded to float16: how far it is from itself.

    Attributes:
        exact: As it is, one mapping a sample.
        rounded: With its numbers rounded.
    """

    exact: Sequence[Named]
    rounded: Sequence[Named]


@dataclass(frozen=True)
class OutputDifference:
    """One output, over all samples.

    Attributes:
        name: Its name in the package.
        largest: Largest absolute difference, 1 for labels that are unequal;
            infinite where one of the two is not finite and the other is.
        mean: Mean absolute difference; the share of labels that are unequal.
        largest_value: Largest magnitude in the module's output.
        allowed: The largest difference that the tolerance allows.
        allowed_mean: The mean difference that it allows.
        pixels: What one pixel is in the output's unit, for boxes.
        rounding: Largest difference of the module from itself with its numbers rounded to float16, where that counts.
        rounding_mean: Its mean difference from itself.
        is_labels: Whether the output holds labels, of which the share counts that is unequal.
    """

    name: str
    largest: float
    mean: float
    largest_value: float
    allowed: float
    allowed_mean: float
    pixels: float | None = None
    rounding: float | None = None
    rounding_mean: float | None = None
    is_labels: bool = False

    @property
    def relative(self) -> float:
        """The largest difference as a share of the largest magnitude."""
        return self.largest / max(self.largest_value, 1e-12)

    @property
    def passed(self) -> bool:
        """Whether the output is within the tolerance."""
        return self.largest <= self.allowed and self.mean <= self.allowed_mean


@dataclass(frozen=True)
class Verification:
    """A package against a module.

    Attributes:
        package: Path of the package.
        runner: What ran the package: "torch, float16", "Core ML".
        samples: How many samples went through both.
        outputs: One difference an output.
    """

    package: str
    runner: str
    samples: int
    outputs: tuple[OutputDifference, ...]

    @property
    def passed(self) -> bool:
        """Whether every output is within the tolerance."""
        return all(output.passed for output in self.outputs)

    def require_passed(self) -> None:
        """Raise unless the package is within the tolerance.

        Raises:
            VerificationError: Naming each output that is not, with both differences.
        """
        wrong = [_in_words(output) for output in self.outputs if not output.passed]
        if wrong:
            raise VerificationError(
                f"the package {self.package} does not compute what its module does: run by {self.runner} on "
                f"{self.samples} samples, its output {'; '.join(wrong)}. Export with compute_precision='float32' if "
                "half precision is too coarse for the network, or with another tolerance=Tolerance(...) if this is "
                "near enough; verify=False exports without this check"
            )


def _in_words(output: OutputDifference) -> str:
    if output.is_labels:
        return (
            f"{output.name!r}, which holds labels, has others in {output.mean:.2%} of its elements, and "
            f"{output.allowed_mean:.2%} are allowed"
        )
    return (
        f"{output.name!r} differs by {output.largest:.3g} at most and {output.mean:.3g} on average, and "
        f"{output.allowed:.3g} and {output.allowed_mean:.3g} are allowed (its largest value is "
        f"{output.largest_value:.3g})"
    )


_DETECTIONS = 200
"""Boxes of an image that are compared: as many as detectors commonly report at most."""


def compare(
    expected: Sequence[Named],
    found: Sequence[Named],
    tolerance: Tolerance,
    *,
    pixels: Mapping[str, float] | None = None,
    rounding: Rounding | None = None,
) -> tuple[OutputDifference, ...]:
    """Compare outputs, sample by sample.

    Outputs of integers or booleans are labels: classes, masks, places of the largest values. So are those of floats
    that hold whole numbers alone, few of them many times, in the module and in the package. Of labels the share of
    unequal ones counts.

    Of a detector's boxes, the 200 are compared that the module is most confident of in each image: nobody ever sees
    the thousands of others, among which are the largest and the least exact. Confidences are compared throughout.

    Args:
        expected: Outputs of the module by name, one mapping a sample.
        found: Outputs of the package for the same samples.
        tolerance: How far they may be apart.
        pixels: What one pixel is, for outputs that hold boxes.
        rounding: What rounding does to the module that was converted, for a tolerance with `times_rounding` and for
            labels. Both of its sides are of that one module: what another differs by excuses nothing.

    Raises:
        VerificationError: If an output is missing or of another size.
    """
    differences = []
    labels = {name for name in expected[0] if _are_labels(name, expected, found)}
    moves = None if rounding is None else _distances(*rounding, labels)
    for name, (distance, largest_value) in _distances(expected, found, labels).items():
        moved = None if moves is None else moves[name].distance
        times = tolerance.times_rounding
        if name in labels:
            # Labels are the same or are not; rounding decides between two that are as good.
            allowed, allowed_mean, times = 1.0, tolerance.unequal, max(times, TIMES_ROUNDING)
        else:
            allowed = tolerance.allowed(name, largest_value)
            allowed_mean = allowed * tolerance.mean
        # A module that breaks when it is rounded says nothing of its package.
        if moved is not None and moved.isfinite().all():
            allowed += times * _largest(moved)
            allowed_mean += times * _mean(moved)
        differences.append(
            OutputDifference(
                name=name,
                largest=_largest(distance),
                mean=_mean(distance),
                largest_value=largest_value,
                allowed=allowed,
                allowed_mean=allowed_mean,
                pixels=(pixels or {}).get(name),
                rounding=None if moved is None else _largest(moved),
                rounding_mean=None if moved is None else _mean(moved),
                is_labels=name in labels,
            )
        )
    return tuple(differences)


class _Distance(NamedTuple):
    distance: Tensor
    largest_value: float


def _distances(
    expected: Sequence[Named], found: Sequence[Named], labels: Collection[str]
) -> dict[str, _Distance]:
    """By output: the distance of each value, 1 for unequal labels, and the largest magnitude expected."""
    reduced = [_most_confident(one, other) for one, other in zip(expected, found, strict=True)]
    distances = {}
    for name in expected[0]:
        pairs = [_pair(name, one[name], other.get(name)) for one, other in reduced]
        reference = torch.cat([pair[0] for pair in pairs])
        finite = reference[reference.isfinite()].abs()
        distance = _distance(reference, torch.cat([pair[1] for pair in pairs]))
        if name in labels:
            # Whole numbers beyond 2048 are rounded in float16.
            distance = (distance > 0.5 + reference.abs() / 1024).double()
        distances[name] = _Distance(distance, finite.max().item() if len(finite) else 0.0)
    return distances


def may_hold_labels(output: Tensor) -> bool:
    """Whether an output may hold labels, which are the same or are not, and no amounts."""
    if not (output.is_floating_point() or output.is_complex()):
        return True
    return output.is_floating_point() and bool((output == output.round()).all())


def _are_labels(name: str, expected: Sequence[Named], found: Sequence[Named]) -> bool:
    """Whether an output holds labels in the module, and in the package too."""
    if not expected[0][name].is_floating_point():
        return may_hold_labels(expected[0][name])
    outputs = [outputs[name] for outputs in (*expected, *found) if name in outputs]
    if not all(map(may_hold_labels, outputs)):
        return False
    # A count of something is a whole number too, and an amount.
    values = torch.cat([outputs[name].flatten() for outputs in expected])
    different = _count_different(values)
    if different == 1:
        # A mask where nothing is, or everything. One value alone does not say what the output holds, but with those of
        # the package there are the two of a mask, one of which is zero; equal outputs pass as whatever they are.
        values = torch.cat([output.flatten().to(values) for output in outputs])
        different = _count_different(values)
        return different == 2 and bool((values == 0).any()) and len(values) >= _REPETITIONS * different
    return different > 1 and len(values) >= _REPETITIONS * different


def _count_different(values: Tensor) -> int:
    return len(values.unique())  # type: ignore[no-untyped-call]


_REPETITIONS = 10
"""How often a label occurs at least, on average, in an output of floats that holds labels."""


def _largest(distance: Tensor) -> float:
    return distance.max().item() if len(distance) else 0.0


def _mean(distance: Tensor) -> float:
    return distance.mean().item() if len(distance) else 0.0


def _most_confident(expected: Named, found: Named) -> tuple[Named, Named]:
    """Outputs with the coordinates of the boxes alone that the module is most confident of."""
    shapes = [
        (tuple(outputs[CONFIDENCE].shape), tuple(outputs[COORDINATES].shape))
        for outputs in (expected, found)
        if {CONFIDENCE, COORDINATES} <= set(outputs)
    ]
    if len(shapes) < 2 or shapes[0] != shapes[1]:
        return expected, found
    (confidence, coordinates) = shapes[0]
    if len(confidence) != 2 or coordinates != (confidence[0], 4):
        return expected, found
    kept = expected[CONFIDENCE].amax(1).topk(min(_DETECTIONS, confidence[0])).indices
    return (
        {**expected, COORDINATES: expected[COORDINATES][kept]},
        {**found, COORDINATES: found[COORDINATES][kept]},
    )


def _pair(name: str, expected: Tensor, found: Tensor | None) -> tuple[Tensor, Tensor]:
    if found is None:
        raise VerificationError(f"the package has no output {name!r}")
    if expected.numel() != found.numel():
        raise VerificationError(
            f"output {name!r} of the package has the shape {list(found.shape)}, and {list(expected.shape)} as the "
            "module computes it"
        )
    return expected.detach().double().flatten(), found.detach().double().cpu().flatten()


def _distance(expected: Tensor, found: Tensor) -> Tensor:
    difference = (expected - found).abs()
    same = (expected == found) | (expected.isnan() & found.isnan())
    return torch.where(same, 0.0, torch.where(difference.isnan(), torch.inf, difference))
