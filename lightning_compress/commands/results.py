"""What a job prints and writes about its packages: `results.json`, `results.md` and a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from lightning_compress.markdown import markdown_table


@dataclass(frozen=True)
class Result:
    """One package and how well it does the job.

    Attributes:
        name: How it was compressed, such as `"palettize_2bit"`.
        package_bytes: Bytes of all its files.
        weight_bytes: Bytes of its weights.
        metric: Name of the metric.
        value: The metric on the validation data.
        package: Path of the package.
    """

    name: str
    package_bytes: int
    weight_bytes: int
    metric: str
    value: float
    package: str


_HEADINGS = {"name": "left", "package": "right", "times smaller": "right", "metric": "left", "value": "right"}


def write_results(results: Sequence[Result], folder: Path) -> None:
    """Write `results.json` and `results.md`, anew after each result: a stopped job keeps what it has."""
    (folder / "results.json").write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    header = [*_HEADINGS, "path"]
    right = [heading for heading, justify in _HEADINGS.items() if justify == "right"]
    rows = [[*_cells(result, results[0]), result.package] for result in results]
    table = markdown_table(header, rows, right=right)
    (folder / "results.md").write_text(f"# Results\n\n{table}\n")


def results_table(results: Sequence[Result]) -> Table:
    """The results as a table to print with rich."""
    table = Table(title="Packages", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, justify in _HEADINGS.items():
        table.add_column(heading, justify="right" if justify == "right" else "left", no_wrap=True)
    for result in results:
        table.add_row(*_cells(result, results[0]))
    return table


def _cells(result: Result, reference: Result) -> list[str]:
    return [
        result.name,
        f"{result.package_bytes / 1e6:.2f} MB",
        f"{reference.package_bytes / result.package_bytes:.2f}",
        result.metric,
        f"{result.value:.4f}",
    ]
