"""What fits and commands print."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console

from lightning_compress.coreml.export import ExportedPackage
from lightning_compress.methods.summary import LayerSummary, summary_table

_FILE_WIDTH = 160
"""Columns where nobody says how many there are: names of layers stay on one line."""


def output_console() -> Console:
    """As wide as the terminal or the notebook; wide enough for names of layers in a file or a pipe."""
    console = Console()
    if not (console.is_terminal or console.is_jupyter or "COLUMNS" in os.environ):
        console.width = _FILE_WIDTH
    return console


def print_layers(layers: Sequence[LayerSummary]) -> None:
    """Print what each layer of a finalized module holds."""
    output_console().print(summary_table(list(layers)))


def package_line(package: ExportedPackage) -> str:
    """One line on what was written: where, for which systems, and how much smaller than float16."""
    ratio = package.float16_weight_bytes / max(package.weight_bytes, 1)
    smaller = f", {ratio:.1f} times smaller than at float16" if ratio > 1.05 else ""
    megabytes = package.package_bytes / 1e6, package.weight_bytes / 1e6
    return f"{package.path} ({package.target}): {megabytes[0]:.2f} MB, weights {megabytes[1]:.2f} MB{smaller}"
