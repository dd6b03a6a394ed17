"""The candidates, and what devices have measured, as tables for a terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

from lightning_compress.console import literal
from lightning_compress.explore.record import Exploration
from lightning_compress.explore.report.candidates import CandidateRow, candidate_rows, headings
from lightning_compress.explore.report.devices import DeviceTable
from lightning_compress.explore.report.outcome import asked


def exploration_table(exploration: Exploration) -> Table:
    """What was measured, the largest package first; the one that the report is about is marked.

    Args:
        exploration: What a search found.
    """
    table = Table(
        title=literal(f"Packages; asked is {asked(exploration.question)}"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for place, heading in enumerate(headings(exploration)):
        table.add_column(literal(heading), justify="left" if place < 2 else "right", no_wrap=True)
    for row in candidate_rows(exploration):
        style = "bold" if row.is_subject else "" if row.stands_out else "dim"
        table.add_row(_sign(exploration, row), *(literal(cell, style) for cell in row.cells))
    return table


def device_table(table: DeviceTable) -> Table:
    """What a device has measured.

    Args:
        table: The rows.
    """
    shown = Table(
        title=literal(f"Measured by Core ML on {table.device}"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("package", *table.units):
        shown.add_column(heading, no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(literal, row.cells))
    return shown


def _sign(exploration: Exploration, row: CandidateRow) -> str:
    if row.is_subject:
        return "chosen" if row.candidate.name == exploration.chosen else "nearest"
    return "front" if row.on_front else ""
