"""What a search will do and about how long, told before it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from lightning_compress.explore.question import Asked
from lightning_compress.explore.record import Candidate
from lightning_compress.explore.rungs import RUNGS
from lightning_compress.explore.subject import Subject

_JACKKNIFE = 3.0
"""The verdict runs two packages, and computes the metric of each ten times more on remembered outputs."""


_FEEDBACK = 2.0
"""What error feedback adds to a package, as was measured on networks of a few million weights."""

_VECTORS = 2.0
"""A training step with palettes of 256 vectors over a plain one, likewise."""


@dataclass(frozen=True)
class Cost:
    """What a part of a search takes at most.

    Attributes:
        name: Of the part: a rung, "sensitivity" or "verdict".
        what: In words.
        packages: How many packages are made and measured.
        steps: Optimizer steps.
        seconds: About how long; None where it cannot be done at all.
    """

    name: str
    what: str
    packages: int
    steps: int
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What a search takes at most.

    Attributes:
        costs: Part by part, in their order.
        package_seconds: What making and measuring a package takes.
    """

    costs: Sequence[Cost]
    package_seconds: float

    def cost(self, name: str) -> Cost:
        """That of a part."""
        return next(cost for cost in self.costs if cost.name == name)

    @property
    def seconds(self) -> float:
        """All parts together."""
        return sum(cost.seconds or 0.0 for cost in self.costs)

    def table(self) -> Table:
        """The plan to print with rich."""
        table = Table(
            title="What the search does at most", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
        )
        table.add_column("part", no_wrap=True)
        table.add_column("what")
        for heading in ("packages", "steps", "about"):
            table.add_column(heading, justify="right", no_wrap=True)
        for cost in self.costs:
            steps = f"{cost.steps:,}" if cost.steps else ""
            table.add_row(cost.name, cost.what, str(cost.packages or ""), steps, in_minutes(cost.seconds))
        table.add_row("all", "", "", "", in_minutes(self.seconds), style="bold")
        return table


def plan_of(asked: Asked, subject: Subject, reference: Candidate, searched: int, judged: int) -> Plan:
    """The plan of a search.

    Args:
        asked: The question.
        subject: What is searched.
        reference: The float16 package, made and measured.
        searched: Samples that the search looks at.
        judged: Samples of the verdict.
    """
    package = reference.seconds
    halvings = asked.steps if asked.max_drop is not None else 2
    fits = asked.fits if asked.max_drop is not None else 1
    costs = [
        # Both in evaluations, as was measured on networks of a few million weights.
        Cost("sensitivity", "every tensor in every form", 0, 0, 3 * package),
    ]
    for rung in asked.ordered_rungs():
        if rung in ("kmeans", "data"):
            costs.append(Cost(rung, RUNGS[rung], 3, 0, 3 * package))
        elif rung == "mixed":
            costs.append(Cost(rung, RUNGS[rung], halvings, 0, halvings * package))
        elif rung == "feedback":
            costs.append(Cost(rung, RUNGS[rung], halvings, 0, halvings * _FEEDBACK * package))
        else:
            count, share, slower = {
                "short_fit": (fits, asked.short, 1.0),
                "full_fit": (1, 1.0, 1.0),
                "vector_fit": (min(fits, len(asked.vector_forms()).bit_length()), 1.0, _VECTORS),
            }[rung]
            length = subject.fit_length(share)
            seconds = None if length is None else count * (slower * length.seconds + package)
            steps = 0 if length is None else count * length.steps
            costs.append(Cost(rung, RUNGS[rung], count, steps, seconds))
    costs.append(
        Cost(
            "verdict",
            "float and the chosen package on data never searched",
            2,
            0,
            _JACKKNIFE * package * judged / searched,
        )
    )
    return Plan(costs, package)


def in_minutes(seconds: float | None) -> str:
    """A duration for a table.

    Example:
        >>> in_minutes(90)
        '1.5 min'
    """
    if seconds is None:
        return "cannot be done"
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min"
