"""What a fit prints of its plan, its layers and its package."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_compress.console import print_whole
from lightning_compress.coreml.export import ExportedPackage
from lightning_compress.methods.mechanism.plan_table import plan_table
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.mechanism.summary import LayerSummary, summary_table
from lightning_compress.package.rendering import in_megabytes
from lightning_compress.untrusted_text import plain_text


def print_plan(prepared: PreparedModule) -> None:
    """Print what will be compressed and how, and what stays dense and why."""
    rows, inputs = prepared.planned_rows()
    if rows:
        print_whole(plan_table(rows, inputs, prepared.plan.unreachable, prepared.plan.without_effect))


def print_layers(layers: Sequence[LayerSummary]) -> None:
    """Print what each layer of a finalized module holds."""
    print_whole(summary_table(list(layers)))


def package_line(package: ExportedPackage) -> str:
    """One line on what was written: where, for which systems, and how much smaller than float16."""
    ratio = package.float16_weight_bytes / max(package.weight_bytes, 1)
    smaller = f", {ratio:.1f} times smaller than at float16" if ratio > 1.05 else ""
    path = plain_text(str(package.path))
    sizes = f"{in_megabytes(package.package_bytes)}, weights {in_megabytes(package.weight_bytes)}"
    return f"{path} ({package.target}): {sizes}{smaller}"
