"""The plan as a table: what will be compressed and how, what stays as it is and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from lightning_compress.console import literal
from lightning_compress.package.rendering import format_bytes

_NAMES = 4
"""Tensors named in a row; the others are counted."""


@dataclass(frozen=True)
class PlannedRow:
    """What is done to one tensor.

    Attributes:
        names: Its dotted names, several for a tied weight.
        numel: Number of its elements.
        treatment: What is done to it, or why nothing is.
        is_compressed: Whether anything is.
    """

    names: tuple[str, ...]
    numel: int
    treatment: str
    is_compressed: bool


def plan_table(
    rows: Sequence[PlannedRow],
    inputs: Sequence[tuple[str, str]],
    unreachable: Sequence[str],
    without_effect: Sequence[str] = (),
) -> Table:
    """One row for each way in which tensors are treated.

    Args:
        rows: The tensors.
        inputs: Layers whose inputs are compressed, each with how.
        unreachable: Modules whose parameters cannot be reached.
        without_effect: Parts of configurations that change nothing, each with why.
    """
    table = Table(
        title="Compression, as it is planned", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("what", overflow="fold")
    table.add_column("tensors", justify="right", no_wrap=True)
    table.add_column("weights", justify="right", no_wrap=True)
    table.add_column("float16", justify="right", no_wrap=True)
    table.add_column("which", overflow="fold")
    for compressed in (True, False):
        groups: dict[str, list[PlannedRow]] = {}
        for row in rows:
            if row.is_compressed is compressed:
                groups.setdefault(row.treatment, []).append(row)
        for treatment, members in groups.items():
            count = sum(row.numel for row in members)
            table.add_row(
                literal(treatment if compressed else f"stays dense: {treatment}"),
                str(len(members)),
                f"{count:,}",
                format_bytes(2 * count),
                _shortened([" = ".join(row.names) for row in members]),
            )
    ways: dict[str, list[str]] = {}
    for layer, way in inputs:
        ways.setdefault(way, []).append(layer)
    for way, layers in ways.items():
        table.add_row(literal(way), str(len(layers)), "", "", _shortened(layers))
    if unreachable:
        table.add_row(
            literal("stays dense: scripted by torch.jit, its parameters cannot be reached"),
            str(len(unreachable)),
            "",
            "",
            _shortened(unreachable),
        )
    for part in without_effect:
        table.add_row(literal(f"changes nothing: {part}"), "", "", "", "")
    return table


def _shortened(names: Sequence[str]) -> Text:
    more = f", and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return literal(", ".join(names[:_NAMES]) + more)
