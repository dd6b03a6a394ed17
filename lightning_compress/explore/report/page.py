"""The report as a page for browsers: one file that holds all that it shows."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lightning_compress.counted import counted
from lightning_compress.durations import duration
from lightning_compress.explore.record import Exploration
from lightning_compress.explore.report.candidates import (
    CandidateRow,
    candidate_rows,
    headings,
    series,
)
from lightning_compress.explore.report.devices import device_tables
from lightning_compress.explore.report.marks import COLORS, mark, star
from lightning_compress.explore.report.outcome import answer, asked, outcome, subject
from lightning_compress.explore.report.pictures import pictures
from lightning_compress.explore.report.plot import Plot, description, plot, plot_near_the_limit
from lightning_compress.explore.report.tensors import (
    EXPLANATION,
    HEADINGS,
    sensitivity,
    tensor_rows,
    with_measured,
)
from lightning_compress.explore.report.words import metric, moved, size, times_smaller
from lightning_compress.untrusted_text import plain_text

_SHEETS = {"wide": (960.0, 420.0), "narrow": (358.0, 320.0)}
"""Width and height of a figure: on a phone one for a desk would be too small to read."""

_TENSORS_SHOWN = 15
"""So many are seen without asking for the others."""


@dataclass(frozen=True)
class Figure:
    """One figure on each of the sheets.

    Attributes:
        title: What it shows.
        text: The same for whoever does not see it.
        sheets: By name of the sheet.
    """

    title: str
    text: str
    sheets: dict[str, Plot]


@dataclass(frozen=True)
class Part:
    """What some of the time went into.

    Attributes:
        name: In words.
        time: How long it took.
        share: Of all, between 0 and 1.
    """

    name: str
    time: str
    share: float


def page(exploration: Exploration, folder: Path) -> str:
    """The page, which names no address but those of pictures that it holds.

    Args:
        exploration: What a search found.
        folder: That of the search, below which the pictures lie.
    """
    rows = candidate_rows(exploration)
    tensors = tensor_rows(exploration)
    about = subject(exploration)
    content: dict[str, Any] = {
        "exploration": exploration,
        "question": exploration.question,
        "about": about,
        "outcome": outcome(exploration),
        "answer": answer(exploration),
        "asked": asked(exploration.question),
        "facts": _facts(exploration),
        "figures": _figures(exploration, rows),
        "series": series(exploration),
        "headings": headings(exploration),
        "seen": [row for row in rows if row.stands_out],
        "others": [row for row in rows if not row.stands_out],
        "tensor_headings": HEADINGS,
        "explanation": EXPLANATION,
        "suffering": tensors[:_TENSORS_SHOWN],
        "other_tensors": tensors[_TENSORS_SHOWN:],
        "sensitivity": sensitivity(exploration),
        "shown": _TENSORS_SHOWN,
        "with_input_scores": any(record.input_score is not None for record in exploration.tensors),
        "pictures": pictures(exploration, folder),
        "parts": _parts(exploration),
        "total": duration(sum(exploration.seconds.values())),
        "devices": device_tables(exploration),
    }
    return _environment().get_template("report.html.jinja").render(content)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lightning_compress.explore.report"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions = (
        breakable,
        counted,
        duration,
        mark,
        metric,
        moved,
        size,
        star,
        times_smaller,
        with_measured,
    )
    environment.globals.update({function.__name__: function for function in functions}, colors=COLORS)
    return environment


def breakable(name: str) -> Markup:
    """A dotted name, which may be broken into lines where one part of it ends.

    Args:
        name: Of a tensor or a package, as it is.
    """
    parts = re.split(r"(?<=[._/])(?=.)", plain_text(name))
    return Markup("<wbr>").join(parts)


def _shown(value: Any) -> Any:
    """What stands in the page for a value; that markup in texts is escaped is jinja2's work."""
    return plain_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _facts(exploration: Exploration) -> dict[str, str]:
    """The numbers of the answer, by what they are."""
    about = subject(exploration)
    if about is None:
        return {}
    name, verdict = exploration.question.metric, exploration.verdict
    facts = {
        "size": size(about.package_bytes),
        "smaller than float16": f"{times_smaller(about.package_bytes, exploration.reference.package_bytes)} times",
    }
    if verdict is None or about.name != exploration.chosen:
        return {**facts, name: metric(about.value), "drop": metric(about.drop, about.drop_error, sign="+")}
    return {
        **facts,
        name: metric(verdict.value, verdict.error),
        "drop": metric(verdict.drop, verdict.drop_error, sign="+"),
    }


def _figures(exploration: Exploration, rows: Sequence[CandidateRow]) -> list[Figure]:
    if not rows:
        return []
    whole = {name: plot(exploration, rows, *sheet) for name, sheet in _SHEETS.items()}
    figures = [Figure("Every candidate", description(exploration, whole["wide"]), whole)]
    near = {name: plot_near_the_limit(exploration, rows, *sheet) for name, sheet in _SHEETS.items()}
    found = {name: drawn for name, drawn in near.items() if drawn is not None}
    if found:
        figures.append(Figure("Near the limit", description(exploration, found["wide"]), found))
    return figures


def _parts(exploration: Exploration) -> list[Part]:
    longest = max(exploration.seconds.values(), default=0.0)
    ordered = sorted(exploration.seconds.items(), key=lambda entry: -entry[1])
    return [Part(name, duration(taken), taken / longest if longest > 0 else 0.0) for name, taken in ordered]
