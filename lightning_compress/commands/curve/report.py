"""What a curve leaves: `curve.json`, `curve.md` and a table."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from lightning_compress.commands.curve.point_job import IN_TRAINING
from lightning_compress.commands.curve.points import Point
from lightning_compress.commands.jobs.job import FLOAT16
from lightning_compress.commands.results import Result
from lightning_compress.console import literal
from lightning_compress.markdown import markdown_table
from lightning_compress.package.rendering import in_megabytes
from lightning_compress.package.save import write_whole

AFTER_TRAINING = "after_training"

WORKFLOWS = {AFTER_TRAINING: "after training", IN_TRAINING: "in training"}
"""The two workflows as folders and stages call them, and in words."""

_HEADINGS = ["point", "workflow", "package", "weights"]


@dataclass(frozen=True)
class Measured:
    """A package of a curve.

    Attributes:
        point: How it was compressed; None for the float16 package.
        workflow: A name in `WORKFLOWS`; empty for the float16 package.
        result: What was measured.
        drop: How much worse its metric is than that of the float16 package; negative where it is better.
    """

    point: Point | None
    workflow: str
    result: Result
    drop: float

    @property
    def name(self) -> str:
        """Of the point."""
        return FLOAT16 if self.point is None else self.point.name


@dataclass(frozen=True)
class Curve:
    """What a curve has measured.

    Attributes:
        results: By stage, the float16 package among them.
        points: By name.
        metric: Its name.
        tolerance: How much worse than float is good enough.
        higher_is_better: Whether a larger metric is a better one.
    """

    results: Mapping[str, Result]
    points: Mapping[str, Point]
    metric: str
    tolerance: float
    higher_is_better: bool

    @property
    def reference(self) -> Result:
        """The float16 package."""
        return self.results[FLOAT16]

    @property
    def worst_in_tolerance(self) -> float:
        """The metric at the far end of the tolerance."""
        return self.reference.value + (-self.tolerance if self.higher_is_better else self.tolerance)

    def measured(self) -> list[Measured]:
        """The float16 package, then each point, its two workflows one below the other."""
        rows = [Measured(None, "", self.reference, 0.0)]
        for name, point in self.points.items():
            for workflow in WORKFLOWS:
                result = self.results.get(f"{workflow}/{name}")
                if result is not None:
                    rows.append(Measured(point, workflow, result, self._drop(result)))
        return rows

    def of(self, technique: str, workflow: str) -> list[Measured]:
        """The points of a technique by one workflow, the smallest package first."""
        rows = [
            row
            for row in self.measured()
            if row.point is not None and row.point.technique == technique and row.workflow == workflow
        ]
        return sorted(rows, key=lambda row: row.result.package_bytes)

    def table(self) -> Table:
        """The table to print with rich."""
        table = Table(title="The curve", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for place, heading in enumerate([*_HEADINGS, self.reference.metric, "drop"]):
            table.add_column(heading, justify="left" if place < 2 else "right", no_wrap=True)
        for row in self.measured():
            table.add_row(*map(literal, _cells(row)))
        return table

    def _drop(self, result: Result) -> float:
        drop = self.reference.value - result.value
        return drop if self.higher_is_better else -drop


def write_curve(curve: Curve, folder: Path) -> None:
    """Write `curve.json` and `curve.md`, anew after each point: a stopped job keeps what it has.

    Paths are those below `folder`, so that it can be moved.
    """
    rows = curve.measured()
    content = {
        "metric": curve.metric,
        "higher_is_better": curve.higher_is_better,
        "tolerance": curve.tolerance,
        "float": curve.reference.value,
        "points": [_entry(row, folder) for row in rows],
    }
    write_whole(folder / "curve.json", (json.dumps(content, indent=2) + "\n").encode())
    headings = [*_HEADINGS, curve.reference.metric, "drop"]
    table = markdown_table(
        [*headings, "path"],
        [[*_cells(row), _below(folder, row.result.package)] for row in rows],
        right=headings[2:],
    )
    direction = "" if curve.higher_is_better else ", where less is better"
    text = (
        f"# Quality over compression\n\n{table}\n\nThe drop is against the float16 package, in the unit of the metric"
        f"{direction}; up to {curve.tolerance:g} is taken for good.\n"
    )
    write_whole(folder / "curve.md", text.encode())


def _entry(row: Measured, folder: Path) -> dict[str, Any]:
    return {
        "point": row.name,
        "technique": None if row.point is None else row.point.technique,
        "workflow": row.workflow or None,
        "package": _below(folder, row.result.package),
        "package_bytes": row.result.package_bytes,
        "weight_bytes": row.result.weight_bytes,
        "value": row.result.value,
        "drop": row.drop,
    }


def _cells(row: Measured) -> list[str]:
    return [
        row.name,
        WORKFLOWS.get(row.workflow, ""),
        in_megabytes(row.result.package_bytes),
        in_megabytes(row.result.weight_bytes),
        f"{row.result.value:.4f}",
        "" if row.point is None else f"{row.drop:+.4f}",
    ]


def _below(folder: Path, path: str) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
