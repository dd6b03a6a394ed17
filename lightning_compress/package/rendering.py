"""A package's report as tables for a terminal.

What a package says is text of unknown origin: it is printed as it is, without what a terminal or rich would obey.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from lightning_compress.console import literal
from lightning_compress.counted import counted
from lightning_compress.package.inspection import Layer, PackageReport
from lightning_compress.package.interface import Feature, PackageFunction
from lightning_compress.package.layer_metadata import LAYERS


def render(report: PackageReport) -> RenderableType:
    """Everything about a package: `rich.print(render(inspect(path)))`.

    Args:
        report: What `inspect` says of it.
    """
    return Group(*tables(report))


def tables(report: PackageReport) -> list[RenderableType]:
    """The tables, and what is known to go wrong, that `render` puts together."""
    return [
        overview(report),
        *(literal(f"Known to go wrong: {problem}", "yellow") for problem in report.known_problems),
        *(features(function, len(report.functions) > 1) for function in report.functions),
        layers(report.layers),
        operations(report),
    ]


def overview(report: PackageReport) -> Table:
    """Sizes, target and metadata."""
    table = Table(title=literal(report.path.name), show_header=False, title_justify="left")
    ratio = report.float16_weight_bytes / max(report.weight_bytes, 1)
    table.add_row("package", format_bytes(report.package_bytes))
    table.add_row("weights", format_bytes(report.weight_bytes))
    table.add_row(
        "weights at float16", f"{format_bytes(report.float16_weight_bytes)} ({ratio:.2f} times as large)"
    )
    table.add_row("runs on", f"{report.target} and later")
    metadata = {
        "description": report.description,
        "author": report.author,
        "license": report.license,
        "version": report.version,
        **report.user_metadata,
    }
    for name, value in metadata.items():
        # The layers have a table of their own.
        if value and name != LAYERS:
            table.add_row(literal(name), literal(_shortened(value)))
    if report.labels:
        table.add_row("labels" if len(report.labels) > 1 else "label", literal(shown_of(report.labels, 5)))
    if len(report.functions) > 1:
        default, *others = (function.name for function in report.functions)
        table.add_row("functions", literal(", ".join([f"{default} (default)", *others])))
    return table


def features(function: PackageFunction, titled: bool = False) -> Table:
    """Inputs and outputs of a function.

    Args:
        function: The function.
        titled: Whether to name it.
    """
    table = Table("", "name", "type", "shape", "scale", "bias", "description", title_justify="left")
    if titled:
        table.title = literal(f"function {function.name}")
    for kind, group in (("input", function.inputs), ("output", function.outputs)):
        for feature in group:
            table.add_row(kind, *_feature_cells(feature))
    return table


def layers(rows: Iterable[Layer]) -> Table:
    """One row for each weight of two or more dimensions, one for all others together, and the sum."""
    table = Table()
    table.add_column("layer", overflow="fold")
    table.add_column("shape", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("stored as", overflow="fold")
    table.add_column("zeros", justify="right", no_wrap=True)
    table.add_column("float16", justify="right", no_wrap=True)
    table.add_column("stored", justify="right", no_wrap=True)
    rows = list(rows)
    small = [row for row in rows if len(row.shape) < 2]
    for row in rows:
        if len(row.shape) >= 2:
            table.add_row(
                literal(row.name),
                "x".join(str(extent) for extent in row.shape),
                f"{row.parameters:,}",
                literal(storage(row)),
                f"{row.sparsity:.1%}",
                format_bytes(row.float16_bytes),
                format_bytes(row.stored_bytes),
            )
    if small:
        _add_sum(table, counted(len(small), "vector"), small)
    table.add_section()
    _add_sum(table, "sum", rows)
    return table


def storage(row: Layer) -> str:
    """How a weight is stored, in words.

    Example:
        "palettized, 2 bits, per tensor"
    """
    if not row.storage.techniques:
        return f"{row.storage.number}{f', dense: {row.dense_reason}' if row.dense_reason else ''}"
    return ", ".join(
        part for part in (row.technique, counted(row.bits, "bit"), row.granularity, *row.details) if part
    )


def operations(report: PackageReport) -> Table:
    """How many operations there are of each type."""
    table = Table("operation", "count")
    table.columns[1].justify = "right"
    for name, count in report.operations.items():
        table.add_row(literal(name), str(count))
    return table


def shown_of(labels: Sequence[str], most: int) -> str:
    """The first labels, and how many there are if that is not seen."""
    shown = ", ".join(labels[:most])
    return shown if len(labels) <= most else f"{len(labels):,}: {shown}, …"


def format_bytes(count: int) -> str:
    """Bytes in the unit that gives one to three digits before the point, in steps of 1000 as Finder counts.

    Example:
        >>> format_bytes(51_095_106)
        '51.1 MB'
    """
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 999.95:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def in_megabytes(count: int) -> str:
    """Bytes of packages to compare, in megabytes with two decimals, or in kilobytes where these would say nothing.

    Example:
        >>> in_megabytes(3_212_345), in_megabytes(9_310)
        ('3.21 MB', '9.3 kB')
    """
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else format_bytes(count)


def _add_sum(table: Table, name: str, rows: list[Layer]) -> None:
    parameters = sum(row.parameters for row in rows)
    zeros = sum(row.sparsity * row.parameters for row in rows)
    table.add_row(
        name,
        "",
        f"{parameters:,}",
        "",
        f"{zeros / max(parameters, 1):.1%}",
        format_bytes(sum(row.float16_bytes for row in rows)),
        format_bytes(sum(row.stored_bytes for row in rows)),
    )


def _feature_cells(feature: Feature) -> list[RenderableType]:
    return [
        literal(feature.name),
        literal(feature.type),
        "x".join(str(extent) for extent in feature.shape),
        _numbers(feature.scale),
        _numbers(feature.bias),
        literal(feature.description),
    ]


def _shortened(value: str) -> str:
    """The beginning of a long value: a whole training configuration may stand in the metadata."""
    shown = 120
    return value if len(value) <= shown else f"{value[:shown]}… ({len(value):,} characters)"


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.5g}" for value in values)
