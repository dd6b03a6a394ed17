"""The report for readers of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lightning_compress.counted import counted
from lightning_compress.durations import duration
from lightning_compress.explore.record import Exploration
from lightning_compress.explore.report.candidates import candidate_rows, headings
from lightning_compress.explore.report.devices import device_tables
from lightning_compress.explore.report.outcome import answer
from lightning_compress.explore.report.tensors import EXPLANATION, HEADINGS, tensor_rows
from lightning_compress.markdown import code_span, escaped, escaped_inside, markdown_table

_LEFT_OF_TENSORS = ("tensor", "shape", "form", "next smaller form")


def results_text(exploration: Exploration) -> str:
    """The answer, the packages, the tensors, the rungs, and what devices have measured.

    Args:
        exploration: What a search found.
    """
    sections = [
        "# The smallest package that still does the job",
        escaped(answer(exploration)),
        *_section("Packages", _packages(exploration)),
        *_section("Tensors", _tensors(exploration)),
        *_section("Rungs", _rungs(exploration)),
        *_devices(exploration),
    ]
    return "\n\n".join(sections) + "\n"


def _section(title: str, content: str) -> list[str]:
    return [f"## {title}", content] if content else []


def _packages(exploration: Exploration) -> str:
    if not exploration.candidates:
        return ""
    names = headings(exploration)
    direction = "" if exploration.question.higher_is_better else ", where less is better"
    table = _table(
        [*names, "path"],
        [[*_named(row.cells), _path(exploration.path(row.candidate))] for row in candidate_rows(exploration)],
        right=names[2:],
    )
    note = (
        f"The drop is against the float16 package, in the unit of the metric{direction}; both are on the data of the "
        "search."
    )
    return f"{table}\n\n{note}"


def _tensors(exploration: Exploration) -> str:
    rows = tensor_rows(exploration)
    if not rows:
        return ""
    table = _table(
        HEADINGS,
        [_named(row.cells) for row in rows],
        right=[name for name in HEADINGS if name not in _LEFT_OF_TENSORS],
    )
    return f"{table}\n\n{EXPLANATION}"


def _rungs(exploration: Exploration) -> str:
    rows = [
        [rung.name, rung.state, duration(rung.seconds) if rung.seconds else "", rung.reason]
        for rung in exploration.rungs
    ]
    return _table(["rung", "state", "time", "why"], map(_named, rows), right=["time"]) if rows else ""


def _devices(exploration: Exploration) -> list[str]:
    found: list[str] = []
    for table in device_tables(exploration):
        found += [
            f"## Measured by Core ML on {escaped(table.device)}",
            _table(
                ["package", *table.units],
                [_named(row.cells) for row in table.rows],
                right=table.units,
            ),
            f"Medians of {counted(table.repetitions, 'prediction')} at least; in brackets, how many operations run "
            "where.",
        ]
    return found


def _named(cells: Sequence[str]) -> list[str]:
    """Cells of which the first is a name."""
    # To be read and copied as it is, without the backslashes that it has in a text before its underscores.
    name, *others = cells
    return [code_span(name), *map(escaped_inside, others)]


def _path(path: str | None) -> str:
    return "" if path is None else code_span(path)


def _table(header: Sequence[str], rows: Iterable[Iterable[str]], right: Sequence[str]) -> str:
    """A table of headings as they are and of cells in Markdown."""
    marked = [escaped_inside(heading) for heading in header]
    aligned = [escaped_inside(heading) for heading in right]
    return markdown_table(marked, [list(row) for row in rows], right=aligned)
