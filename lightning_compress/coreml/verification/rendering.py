"""A verification as a table to print with rich."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from lightning_compress.coreml.verification.comparison import OutputDifference, Verification
from lightning_compress.untrusted_text import plain_text


def verification_table(verification: Verification) -> Table:
    """One row for each output."""
    table = Table(
        title=Text(
            plain_text(
                f"{verification.package}, {verification.samples} samples, run by {verification.runner}"
            )
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
            Text(plain_text(output.name)),
            f"{output.largest_value:.4g}",
            _in_pixels(output, output.largest),
            f"{output.relative:.2e}",
            *(_in_pixels(output, output.rounding or 0.0) for _ in rounding),
            _in_pixels(output, output.mean),
            _in_pixels(output, output.allowed),
            "[green]ok" if output.passed else "[bold red]differs",
        )
    return table


def _in_pixels(output: OutputDifference, value: float) -> str:
    return f"{value:.2e}" if output.pixels is None else f"{value / output.pixels:.3f} px"
