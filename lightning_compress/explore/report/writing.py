"""Writes the report of a search into its folder."""

from __future__ import annotations

from pathlib import Path

from lightning_compress.explore.record import Exploration
from lightning_compress.explore.report.page import page
from lightning_compress.explore.report.results import results_text
from lightning_compress.package.save import write_whole

PAGE, RESULTS = "report.html", "results.md"
"""The report for browsers, and for readers of Markdown."""


def write_report(exploration: Exploration, folder: Path) -> None:
    """Write `report.html` and `results.md`, each whole or not at all.

    The page holds all that it shows, and opens without a network. Whatever is missing yet is left out: a search may
    write its report after each candidate.

    Args:
        exploration: What the search found.
        folder: That of the search, below which the pictures lie.
    """
    write_whole(folder / PAGE, page(exploration, folder).encode())
    write_whole(folder / RESULTS, results_text(exploration).encode())
