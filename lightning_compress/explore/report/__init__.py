"""What people read of a search: `report.html`, `results.md` and a table for the terminal.

- `outcome`: what was asked and what came of it, in words.
- `candidates`, `tensors`, `devices`: the rows of the tables, whatever they are printed as.
- `plot`, `marks`: the figure of the metric over bytes, as places on a sheet.
- `page`, `pictures`: the page, which holds all that it shows.
- `results`, `terminal`: the same for readers of Markdown, and in a terminal.
"""

from __future__ import annotations

from lightning_compress.explore.report.outcome import answer
from lightning_compress.explore.report.terminal import exploration_table
from lightning_compress.explore.report.writing import PAGE, RESULTS, write_report

__all__ = ["PAGE", "RESULTS", "answer", "exploration_table", "write_report"]
