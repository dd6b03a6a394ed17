"""What each tensor bears: why it has the form that it has, and which suffer most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_compress.explore.record import Exploration, Option, TensorRecord
from lightning_compress.explore.report.outcome import subject
from lightning_compress.explore.report.words import UNKNOWN, moved, size

HEADINGS = [
    "tensor",
    "shape",
    "form",
    "size",
    "won",
    "outputs move",
    "next smaller form",
    "it wins",
    "it costs",
]
"""Of the table of tensors; those from the fourth on stand over numbers, but for the seventh."""

EXPLANATION = (
    "How far the outputs move is the mean square of their change over their variance, summed over the outputs: as it "
    "is expected, and as it was measured where a tensor was tried alone. What is won is against float16. The next "
    "smaller form is the largest of the smaller ones that no smaller still one beats; what it wins and costs comes on "
    "top. A dash stands for what has no score: palettes of vectors for a whole network are trained, and known by their "
    "packages alone."
)
"""What the columns of that table mean."""


@dataclass(frozen=True)
class TensorRow:
    """A tensor in the package that a report is about.

    Attributes:
        record: What the search knows of it.
        form: The name of its form.
        option: It in that form; None where the search has not counted that one.
        smaller: The next smaller form that is worth a thought; None where there is none.
    """

    record: TensorRecord
    form: str
    option: Option | None
    smaller: Option | None

    @property
    def won(self) -> int | None:
        """Bytes that its form saves against float16."""
        return None if self.option is None else self.record.options[0].bytes - self.option.bytes

    @property
    def suffers(self) -> float:
        """How far the outputs are expected to move with it, for sorting; nothing known is least."""
        return float("-inf") if self.option is None or self.option.score is None else self.option.score

    @property
    def more_won(self) -> int | None:
        """Bytes that the next smaller form would save besides."""
        if self.smaller is None or self.option is None:
            return None
        return self.option.bytes - self.smaller.bytes

    @property
    def more_cost(self) -> float | None:
        """How much farther the outputs are expected to move with the next smaller form."""
        if self.smaller is None or self.option is None:
            return None
        return _difference(self.smaller.score, self.option.score)

    @property
    def more_measured(self) -> float | None:
        """How much farther the outputs did move with the next smaller form, where both were tried."""
        if self.smaller is None or self.option is None:
            return None
        return _difference(self.smaller.measured, self.option.measured)

    @property
    def cells(self) -> list[str]:
        """What the columns of `HEADINGS` say."""
        option = self.option
        return [
            self.record.name,
            "x".join(map(str, self.record.shape)),
            self.form,
            UNKNOWN if option is None else size(option.bytes),
            UNKNOWN if self.won is None else size(self.won),
            UNKNOWN if option is None else with_measured(option.score, option.measured),
            self.record.reason or ("none" if self.smaller is None else self.smaller.form),
            UNKNOWN if self.more_won is None else size(self.more_won),
            with_measured(self.more_cost, self.more_measured),
        ]


@dataclass(frozen=True)
class Bar:
    """How much a tensor suffers.

    Attributes:
        name: Of the tensor.
        score: How far the outputs are expected to move.
        measured: By how much it did, where it was tried.
        share: Of the longest bar, between 0 and 1.
        measured_share: Likewise; None where it was not tried.
    """

    name: str
    score: float
    measured: float | None
    share: float
    measured_share: float | None


@dataclass(frozen=True)
class Sensitivity:
    """Which tensors suffer most when each alone is brought into the same form.

    Attributes:
        form: The form.
        bars: One a tensor, the longest first.
    """

    form: str
    bars: Sequence[Bar]


def tensor_rows(exploration: Exploration) -> list[TensorRow]:
    """All tensors, those first that suffer most in the package that the report is about.

    Args:
        exploration: What a search found.
    """
    about = subject(exploration)
    forms = {} if about is None else about.forms
    rows = [_row(record, forms.get(record.name, record.options[0].form)) for record in exploration.tensors]
    alike = sensitivity(exploration)
    # Before anything was chosen all are dense, and none suffers.
    scores = {} if alike is None else {bar.name: bar.score for bar in alike.bars}
    return sorted(rows, key=lambda row: (-row.suffers, -scores.get(row.record.name, 0.0), row.record.name))


def sensitivity(exploration: Exploration) -> Sensitivity | None:
    """Which tensors suffer most; None where no score is known.

    They are compared in one form, of those that most tensors can have the one in the middle by bytes: in larger ones
    hardly any suffers, and in smaller ones all do.

    Args:
        exploration: What a search found.
    """
    scored: dict[str, list[tuple[TensorRecord, Option]]] = {}
    for record in exploration.tensors:
        for option in record.options[1:]:
            if option.score is not None:
                scored.setdefault(option.form, []).append((record, option))
    if not scored:
        return None
    most = max(map(len, scored.values()))
    common = [form for form, found in scored.items() if len(found) == most]
    common.sort(key=lambda form: (sum(option.bytes for _, option in scored[form]), form))
    form = common[len(common) // 2]
    found = [(record.name, option.score or 0.0, option.measured) for record, option in scored[form]]
    longest = max(max(score, measured or 0.0) for _, score, measured in found)
    bars = [
        Bar(
            name,
            score,
            measured,
            _share(score, longest),
            None if measured is None else _share(measured, longest),
        )
        for name, score, measured in found
    ]
    return Sensitivity(form, sorted(bars, key=lambda bar: (-bar.score, bar.name)))


def with_measured(score: float | None, measured: float | None) -> str:
    """What was expected, and what was found where it was tried.

    Example:
        >>> with_measured(0.0031, None), with_measured(0.0031, 0.0042)
        ('0.0031', '0.0031 (measured 0.0042)')
    """
    return moved(score) if measured is None else f"{moved(score)} (measured {moved(measured)})"


def _row(record: TensorRecord, form: str) -> TensorRow:
    option = record.known(form)
    return TensorRow(record, form, option, None if option is None else _next_smaller(record, option))


def _next_smaller(record: TensorRecord, option: Option) -> Option | None:
    """The largest of the smaller forms that no form smaller still beats."""
    smaller = sorted(
        (other for other in record.options if other.bytes < option.bytes),
        key=lambda other: (-other.bytes, other.form),
    )
    for place, candidate in enumerate(smaller):
        if candidate.score is None:
            continue
        others = [other.score for other in smaller[place + 1 :] if other.score is not None]
        if all(score > candidate.score for score in others):
            return candidate
    return smaller[0] if smaller else None


def _difference(more: float | None, less: float | None) -> float | None:
    return None if more is None or less is None else more - less


def _share(value: float, longest: float) -> float:
    return min(max(value / longest, 0.0), 1.0) if longest > 0 else 0.0
