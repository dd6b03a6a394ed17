"""What is tried, cheapest first: each rung starts from what the ones before have found."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from lightning_compress.explore.allocation import (
    Allocation,
    allocate,
    in_vectors,
    option_in,
    smallest_bytes,
    uniform,
)
from lightning_compress.explore.forms import DENSE, Form
from lightning_compress.explore.limits import Limits
from lightning_compress.explore.making import Candidates, Request
from lightning_compress.explore.record import Candidate, TensorRecord

CLOSE = 1.03
"""Two sizes that are nearer than this ratio are the same: what lies between them is noise of the metric."""


@dataclass(frozen=True)
class Attempt:
    """A candidate between two bounds, and what the bounds are after it.

    Attributes:
        request: Of the candidate.
        if_good: The bounds where its metric is good enough.
        if_bad: The bounds where it is not.
    """

    request: Request
    if_good: tuple[int, int]
    if_bad: tuple[int, int]


@dataclass
class Standing:
    """Where a search stands, as its rungs see it.

    Attributes:
        candidates: Makes and keeps packages.
        records: The tensors with their options.
        limits: What is asked for.
        overhead: Bytes of a package beside those of its tensors.
        steps: How often a size is bisected at most.
        fits: How many fits a rung makes at most.
        short: Share of the full length of a fit that a short one has.
        vectors: Names of the tensors that can have each palette of vectors, by its name, that of fewest bits a weight
            first.
        ahead: How many steps of a bisection are made at once, where other processes make candidates.
        proceed: Asked before each candidate; raises where time is up.
    """

    candidates: Candidates
    records: Sequence[TensorRecord]
    limits: Limits
    overhead: int
    steps: int
    fits: int
    short: float
    vectors: Mapping[str, Collection[str]]
    ahead: int
    proceed: Callable[[], None]

    def upper(self) -> int:
        """The bytes of the tensors in the smallest package that is good enough, or of the largest that is allowed."""
        good = [found.package_bytes - self.overhead for found in self._good()]
        bounds = [min(good)] if good else []
        if self.limits.max_bytes is not None:
            # What a program takes beside its tensors grows with the forms in it: packages that were made tell.
            beside = [found.package_bytes - self._taken(found) for found in self.candidates.found]
            bounds.append(self.limits.max_bytes - max(self.overhead, *beside, 0))
        return min(bounds) if bounds else sum(record.options[0].bytes for record in self.records)

    def least_good(self) -> int:
        """What the tensors alone take in the smallest package that is good enough; without one, `upper`."""
        return min([self.upper(), *(self._taken(found) for found in self._good())])

    def _good(self) -> list[Candidate]:
        """The packages whose drop is within its limit; none where there is no such limit."""
        if self.limits.max_drop is None:
            return []
        return [
            found
            for found in self.candidates.found
            if self.limits.allows_value(found.value, found.drop_error)
        ]

    def _taken(self, candidate: Candidate) -> int:
        """The bytes of the tensors in a candidate's forms."""
        return sum(
            option_in(record, candidate.forms.get(record.name, DENSE)).bytes for record in self.records
        )

    def lower(self) -> int:
        """The bytes of the tensors in their smallest forms."""
        return smallest_bytes(self.records)


def climb(standing: Standing, rung: str) -> None:
    """Try a rung, one of `RUNGS`."""
    if rung in ("kmeans", "data"):
        uniform_rung(standing, rung)
    elif rung in ("mixed", "feedback"):
        mixed_rung(standing, rung)
    elif rung == "short_fit":
        trained_rung(standing, rung, standing.short, standing.fits)
    elif rung == "full_fit":
        trained_rung(standing, rung, 1.0, 1)
    else:
        vector_rung(standing, rung)


def uniform_rung(standing: Standing, rung: str) -> None:
    """One width for all tensors: the smallest that is good enough, or the largest that is small enough.

    Args:
        standing: Of the search.
        rung: Its name.
    """
    widths = sorted({form for record in standing.records for form in _palettes(record)}, key=_bits)
    allocations = {form: uniform(standing.records, form) for form in widths}
    most = standing.limits.max_bytes
    if most is not None:
        widths = [form for form in widths if allocations[form].bytes + standing.overhead <= most]
    _fewest_bits(
        standing, [_request(f"{rung}_{form}", rung, allocations[form]) for form in widths], len(widths)
    )


def mixed_rung(standing: Standing, rung: str) -> None:
    """Each tensor in a form of its own: the number of bytes is bisected against the metric of real packages."""
    _bisect(standing, rung, standing.steps, None)


def trained_rung(standing: Standing, rung: str, share: float, fits: int) -> None:
    """The forms of the integer program, trained from the float weights."""
    _bisect(standing, rung, fits, share)


def vector_rung(standing: Standing, rung: str) -> None:
    """Palettes of vectors for all tensors that can have them, trained from the float weights."""
    # A fit is too dear for a package that turns out a little larger than the smallest good one.
    most = standing.least_good()
    requests = []
    for form, able in standing.vectors.items():
        allocation = in_vectors(standing.records, form, able)
        if form in allocation.forms.values() and allocation.bytes < most:
            requests.append(Request(f"{rung}_{form}", rung, allocation.compressed, None, share=1.0))
    _fewest_bits(standing, requests, standing.fits)


def _fewest_bits(standing: Standing, requests: Sequence[Request], steps: int) -> None:
    """Of candidates, those of fewest bits first, find the first that is good enough; the last, if any is."""
    if standing.limits.max_drop is None:
        # More bits are better: the most that the size allows.
        requests = requests[-1:]

    def attempt(low: int, high: int) -> Attempt | None:
        if low >= high:
            return None
        middle = (low + high) // 2
        return Attempt(requests[middle], if_good=(low, middle), if_bad=(middle + 1, high))

    _halve(standing, attempt, (0, len(requests)), steps)


def _bisect(standing: Standing, rung: str, steps: int, share: float | None) -> None:
    """Make packages between the smallest possible and the smallest that is known to be good."""
    low, high = standing.lower(), standing.upper()
    if standing.limits.max_drop is None:
        most = standing.limits.max_bytes
        for _ in range(max(steps, 2)):
            standing.proceed()
            found = standing.candidates.make(_sized(standing, rung, max(high, low), share)[0])
            if most is None or found.package_bytes <= most or high <= low:
                return
            # This package has told what its program takes; another allocation's may take a little more.
            high = min(standing.upper(), high - 1)
        return

    @functools.cache
    def attempt(low: int, high: int) -> Attempt | None:
        if high < low * CLOSE:
            return None
        middle = round(math.sqrt(low * high))
        request, taken = _sized(standing, rung, middle, share)
        return Attempt(request, if_good=(low, min(middle, taken)), if_bad=(middle, high))

    _halve(standing, attempt, (low, high), steps)


def _halve(
    standing: Standing, attempt: Callable[[int, int], Attempt | None], bounds: tuple[int, int], steps: int
) -> None:
    """Narrow two bounds, attempt by attempt.

    Which attempts there are follows from how those before them ended. Where other processes make candidates, the ones
    that may come next are made at the same time; how the search goes is the same, and those that it does not come to
    do not count.
    """
    for step in range(steps):
        following = attempt(*bounds)
        if following is None:
            return
        standing.proceed()
        depth = min(standing.ahead, steps - step)
        beside = _reachable(attempt, bounds, depth) if standing.candidates.is_elsewhere else []
        found = standing.candidates.make(following.request, beside)
        is_good = standing.limits.allows_value(found.value, found.drop_error)
        bounds = following.if_good if is_good else following.if_bad


def _reachable(
    attempt: Callable[[int, int], Attempt | None], bounds: tuple[int, int], depth: int
) -> list[Request]:
    """What may be asked for in so many steps."""
    following = attempt(*bounds) if depth else None
    if following is None:
        return []
    return [
        following.request,
        *_reachable(attempt, following.if_good, depth - 1),
        *_reachable(attempt, following.if_bad, depth - 1),
    ]


def _sized(standing: Standing, rung: str, most: int, share: float | None) -> tuple[Request, int]:
    """The forms of the integer program within some bytes, and the bytes that they take."""
    allocation = allocate(standing.records, most)
    return _request(f"{rung}_{allocation.bytes // 1000}kB", rung, allocation, share), allocation.bytes


def _request(name: str, rung: str, allocation: Allocation, share: float | None = None) -> Request:
    return Request(name, rung, allocation.compressed, allocation.expected, share)


def _palettes(record: TensorRecord) -> list[str]:
    """The plain palettes among its options."""
    return [option.form for option in record.options if _is_plain_palette(Form.parse(option.form))]


def _is_plain_palette(form: Form) -> bool:
    return form.bits is not None and form == Form(bits=form.bits)


def _bits(form: str) -> int:
    return Form.parse(form).bits or 0


VECTOR_RUNG = "vector_fit"
"""The rung whose forms no other has."""

RUNGS: Mapping[str, str] = {
    "kmeans": "palettes of one width by k-means",
    "data": "palettes of one width by data",
    "mixed": "a form of its own for each tensor",
    "feedback": "a form of its own for each tensor, each column's error made good for in those after it",
    "short_fit": "a form of its own for each tensor, trained for a part of the full length",
    "full_fit": "a form of its own for each tensor, trained for the full length",
    VECTOR_RUNG: "vectors for all tensors, of 2 bits a weight and fewer, trained for the full length",
}
"""What each rung tries, in words, in their order."""

TRAINED = frozenset({"short_fit", "full_fit", VECTOR_RUNG})
"""Those that train."""
