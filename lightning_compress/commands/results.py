"""What a job prints and writes about its packages: `results.json`, `results.md` and a table."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from lightning_compress.markdown import markdown_table
from lightning_compress.package.rendering import in_megabytes


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


def _headings(results: Sequence[Result]) -> list[str]:
    """The headings of the table; the last one is the metric's, which is the same for all packages of a job."""
    metric = results[0].metric if results else "value"
    return ["name", "package", "weights", "times smaller", metric]


def write_results(results: Sequence[Result], folder: Path) -> None:
    """Write `results.json` and `results.md`, anew after each result: a stopped job keeps what it has.

    Paths are those below `folder`, so that it can be moved.
    """
    paths = [_below(folder, result.package) for result in results]
    rows = [{**asdict(result), "package": path} for result, path in zip(results, paths, strict=True)]
    (folder / "results.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    cells = [[*_cells(result, results[0]), path] for result, path in zip(results, paths, strict=True)]
    headings = _headings(results)
    table = markdown_table([*headings, "path"], cells, right=headings[1:])
    (folder / "results.md").write_text(f"# Results\n\n{table}\n", encoding="utf-8")


def results_table(results: Sequence[Result]) -> Table:
    """The results as a table to print with rich."""
    table = Table(title="Packages", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(_headings(results)):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for result in results:
        table.add_row(*map(Text, _cells(result, results[0])))
    return table


def _below(folder: Path, path: str) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _cells(result: Result, reference: Result) -> list[str]:
    return [
        result.name,
        in_megabytes(result.package_bytes),
        in_megabytes(result.weight_bytes),
        f"{reference.package_bytes / result.package_bytes:.2f}",
        f"{result.value:.4f}",
    ]
