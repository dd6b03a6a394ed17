"""The rows of the table of candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_compress.explore.front import front
from lightning_compress.explore.record import Candidate, Exploration
from lightning_compress.explore.report.devices import device_tables, fastest
from lightning_compress.explore.report.outcome import subject
from lightning_compress.explore.report.words import metric, size, times_smaller

_FORMS_SHOWN = 3


@dataclass(frozen=True)
class CandidateRow:
    """A candidate as the tables show it.

    Attributes:
        candidate: What was measured.
        series: The place of its rung among those of `series`, which says its colour and its mark; None for float16.
        is_reference: Whether it is the float16 package.
        is_subject: Whether it is the one that the report is about.
        on_front: Whether no other one beats it in both bytes and metric.
        cells: What the columns of `headings` say.
        forms: In what forms its tensors are, in words.
    """

    candidate: Candidate
    series: int | None
    is_reference: bool
    is_subject: bool
    on_front: bool
    cells: Sequence[str]
    forms: str

    @property
    def stands_out(self) -> bool:
        """Whether it is seen without asking for the others."""
        return self.is_reference or self.is_subject or self.on_front


def headings(exploration: Exploration) -> list[str]:
    """The headings of the table; those from the third on stand over numbers.

    Args:
        exploration: What a search found.
    """
    return [
        "package",
        "rung",
        "size",
        "weights",
        "times smaller",
        exploration.question.metric,
        "drop",
        "in limits",
        *(f"fastest on {table.device}" for table in device_tables(exploration)),
    ]


def candidate_rows(exploration: Exploration) -> list[CandidateRow]:
    """All candidates, the largest package first.

    Args:
        exploration: What a search found.
    """
    about = subject(exploration)
    best = {candidate.name for candidate in front(exploration)}
    names = series(exploration)
    rows = [
        CandidateRow(
            candidate=candidate,
            series=None if place == 0 else names.index(candidate.rung),
            is_reference=place == 0,
            is_subject=about is not None and candidate.name == about.name,
            on_front=candidate.name in best,
            cells=_cells(exploration, candidate, is_reference=place == 0),
            forms=_forms(candidate),
        )
        for place, candidate in enumerate(exploration.candidates)
    ]
    return sorted(rows, key=lambda row: (not row.is_reference, -row.candidate.package_bytes))


def series(exploration: Exploration) -> list[str]:
    """What made the candidates but for float16, each once, in the order of the search.

    Args:
        exploration: What it found.
    """
    return list(dict.fromkeys(candidate.rung for candidate in exploration.candidates[1:]))


def _cells(exploration: Exploration, candidate: Candidate, *, is_reference: bool) -> list[str]:
    return [
        candidate.name,
        candidate.rung,
        size(candidate.package_bytes),
        size(candidate.weight_bytes),
        times_smaller(candidate.package_bytes, exploration.reference.package_bytes),
        metric(candidate.value),
        "" if is_reference else metric(candidate.drop, candidate.drop_error, sign="+"),
        "yes" if candidate.satisfies else "no",
        *fastest(exploration, candidate),
    ]


def _forms(candidate: Candidate) -> str:
    counts = Counter(candidate.forms.values()).most_common()
    shown = [f"{count} {form}" for form, count in counts[:_FORMS_SHOWN]]
    rest = sum(count for _, count in counts[_FORMS_SHOWN:])
    return ", ".join([*shown, f"{rest} in other forms"] if rest else shown) or "all dense"
