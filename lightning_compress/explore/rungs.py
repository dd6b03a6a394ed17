"""What is tried, cheapest first: each rung starts from what the ones before have found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lightning_compress.explore.allocation import Allocation, allocate, smallest_bytes, uniform
from lightning_compress.explore.compressing import Compressing
from lightning_compress.explore.forms import DENSE, Form
from lightning_compress.explore.limits import Limits
from lightning_compress.explore.making import Candidates
from lightning_compress.explore.record import Candidate, TensorRecord

CLOSE = 1.03
"""Two sizes that are nearer than this ratio are the same: what lies between them is noise of the metric."""


@dataclass
class Standing:
    """Where a search stands, as its rungs see it.

    Attributes:
        candidates: Makes and keeps packages.
        records: The tensors with their options.
        limits: What is asked for.
        overhead: Bytes of a package beside those of its tensors.
        steps: How often a size is bisected at most.
        proceed: Asked before each candidate; raises where time is up.
    """

    candidates: Candidates
    records: Sequence[TensorRecord]
    limits: Limits
    overhead: int
    steps: int
    proceed: Callable[[], None]

    def upper(self) -> int:
        """The bytes of the tensors in the smallest package that is good enough, or of the largest that is allowed."""
        good = [
            found.package_bytes - self.overhead
            for found in self.candidates.found
            if self.limits.allows_value(found.value)
        ]
        bounds = [min(good)] if self.limits.max_drop is not None and good else []
        if self.limits.max_bytes is not None:
            # What a program takes beside its tensors grows with the forms in it: packages that were made tell.
            beside = [found.package_bytes - self._taken(found) for found in self.candidates.found]
            bounds.append(self.limits.max_bytes - max(self.overhead, *beside, 0))
        return min(bounds) if bounds else sum(record.options[0].bytes for record in self.records)

    def _taken(self, candidate: Candidate) -> int:
        """The bytes of the tensors in a candidate's forms."""
        return sum(record.option(candidate.forms.get(record.name, DENSE)).bytes for record in self.records)

    def lower(self) -> int:
        """The bytes of the tensors in their smallest forms."""
        return smallest_bytes(self.records)


def uniform_rung(standing: Standing, rung: str, compress: Compressing, how: str) -> None:
    """One width for all tensors: the smallest that is good enough, or the largest that is small enough.

    Args:
        standing: Of the search.
        rung: Its name.
        compress: Brings tensors into forms.
        how: Names that.
    """
    widths = sorted({form for record in standing.records for form in _palettes(record)}, key=_bits)
    allocations = {form: uniform(standing.records, form) for form in widths}
    most = standing.limits.max_bytes
    if most is not None:
        widths = [form for form in widths if allocations[form].bytes + standing.overhead <= most]
    if standing.limits.max_drop is None:
        # More bits are better: the most that the size allows.
        widths = widths[-1:]
    low, high = 0, len(widths)
    while low < high:
        middle = (low + high) // 2
        form = widths[middle]
        standing.proceed()
        found = _after_training(standing, f"{rung}_{form}", rung, allocations[form], compress, how)
        if standing.limits.allows_value(found.value):
            high = middle
        else:
            low = middle + 1


def mixed_rung(standing: Standing, rung: str, compress: Compressing, how: str) -> None:
    """Each tensor in a form of its own: the number of bytes is bisected against the metric of real packages."""

    def attempt(most: int) -> Candidate:
        allocation = allocate(standing.records, most)
        name = f"{rung}_{allocation.bytes // 1000}kB"
        return _after_training(standing, name, rung, allocation, compress, how)

    _bisect(standing, attempt, standing.steps)


def trained_rung(standing: Standing, rung: str, share: float, fits: int) -> None:
    """The forms of the integer program, trained from the float weights."""

    def attempt(most: int) -> Candidate:
        allocation = allocate(standing.records, most)
        name = f"{rung}_{allocation.bytes // 1000}kB"
        return standing.candidates.trained(name, rung, allocation.compressed, allocation.expected, share)

    _bisect(standing, attempt, fits)


def _bisect(standing: Standing, attempt: Callable[[int], Candidate], steps: int) -> None:
    """Make packages between the smallest possible and the smallest that is known to be good."""
    low, high = standing.lower(), standing.upper()
    if standing.limits.max_drop is None:
        most = standing.limits.max_bytes
        for _ in range(max(steps, 2)):
            standing.proceed()
            found = attempt(max(high, low))
            if most is None or found.package_bytes <= most or high <= low:
                return
            # This package has told what its program takes; another allocation's may take a little more.
            high = min(standing.upper(), high - 1)
        return
    for _ in range(steps):
        if high < low * CLOSE:
            return
        middle = round(math.sqrt(low * high))
        standing.proceed()
        found = attempt(middle)
        if standing.limits.allows_value(found.value):
            high = min(middle, found.package_bytes - standing.overhead)
        else:
            low = middle


def _after_training(
    standing: Standing, name: str, rung: str, allocation: Allocation, compress: Compressing, how: str
) -> Candidate:
    return standing.candidates.after_training(
        name, rung, allocation.compressed, allocation.expected, compress, how
    )


def _palettes(record: TensorRecord) -> list[str]:
    """The plain palettes among its options."""
    return [option.form for option in record.options if _is_plain_palette(Form.parse(option.form))]


def _is_plain_palette(form: Form) -> bool:
    return form.bits is not None and form == Form(bits=form.bits)


def _bits(form: str) -> int:
    return Form.parse(form).bits or 0


RUNGS: Mapping[str, str] = {
    "kmeans": "palettes of one width by k-means",
    "data": "palettes of one width by data",
    "mixed": "a form of its own for each tensor",
    "feedback": "the same, each column's error made good for in those after it",
    "short_fit": "these forms, trained for a part of the full length",
    "full_fit": "these forms, trained for the full length",
}
"""What each rung tries, in words, in their order."""

TRAINED = frozenset({"short_fit", "full_fit"})
"""Those that train."""
