"""A verification as a table to print with rich."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from lightning_compress.console import literal
from lightning_compress.coreml.verification.comparison import OutputDifference, Verification


def verification_table(verification: Verification) -> Table:
    """One row for each output."""
    table = Table(
        title=literal(
            f"{verification.package}, {verification.samples} samples, run by {verification.runner}",
            "table.title",
        ),
        title_justify="left",
    )
    table.add_column("output", overflow="fold")
    # What the module differs from itself, rounded to float16.
    rounding = (
        ["torch, rounded"] if any(output.rounding is not None for output in verification.outputs) else []
    )
    for heading in (
        "largest value",
        "largest difference",
        "relative",
        *rounding,
        "mean difference",
        "allowed",
    ):
        table.add_column(heading, justify="right")
    table.add_column("")
    for output in verification.outputs:
        table.add_row(
            literal(output.name),
            f"{output.largest_value:.4g}",
            *_differences(output, with_rounding=bool(rounding)),
            Text("ok", "green") if output.passed else Text("differs", "bold red"),
        )
    return table


def _differences(output: OutputDifference, *, with_rounding: bool) -> list[str]:
    if output.is_labels:
        rounding = [f"{output.rounding_mean or 0.0:.2%}"] if with_rounding else []
        return ["", "", *rounding, f"{output.mean:.2%} unequal", f"{output.allowed_mean:.2%}"]
    rounding = [_in_pixels(output, output.rounding or 0.0)] if with_rounding else []
    return [
        _in_pixels(output, output.largest),
        f"{output.relative:.2e}",
        *rounding,
        _in_pixels(output, output.mean),
        _in_pixels(output, output.allowed),
    ]


def _in_pixels(output: OutputDifference, value: float) -> str:
    return f"{value:.2e}" if output.pixels is None else f"{value / output.pixels:.3f} px"
