"""What techniques hold at the moment, tensor by tensor, for whoever looks for the reason of a wrong result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import Tensor

from lightning_compress.console import literal
from lightning_compress.methods.mechanism.method import TensorState


@dataclass(frozen=True)
class TensorReport:
    """One technique on one tensor.

    Attributes:
        name: Dotted name of the tensor.
        technique: Name of the technique.
        error: Root mean square distance of what evaluation makes of the tensor, over the tensor's root mean square.
        values: What the technique tells: "palette" and "shares" of its entries, "sparsity", "scale", "zero_point".
    """

    name: str
    technique: str
    error: float
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Every technique on every tensor; prints as a table with rich."""

    tensors: Sequence[TensorReport]

    def __getitem__(self, name: str) -> TensorReport:
        """The last technique on the tensor of that name."""
        return next(tensor for tensor in reversed(self.tensors) if tensor.name == name)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show the report as a table."""
        table = Table(
            title="Compression by tensor", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
        )
        for heading in ("tensor", "technique", "error", ""):
            table.add_column(heading, overflow="fold")
        for tensor in self.tensors:
            told = "; ".join(f"{key} {_short(value)}" for key, value in tensor.values.items())
            table.add_row(
                literal(tensor.name), literal(tensor.technique), f"{tensor.error:.2%}", literal(told)
            )
        yield table


@torch.no_grad()
def report_tensors(states: Sequence[TensorState]) -> Report:
    """Look at every technique as evaluation would use it; neither modes nor state are changed."""
    reports = []
    for state in states:
        technique = state.technique
        tensor = state.tensor()
        training = technique.training
        technique.eval()
        compressed = technique(tensor)
        values = technique.report(tensor, compressed)
        technique.train(training)
        reports.append(
            TensorReport(
                state.reference.name, type(technique).__name__, relative_error(tensor, compressed), values
            )
        )
    return Report(reports)


def relative_error(tensor: Tensor, compressed: Tensor) -> float:
    """Root mean square distance over root mean square; 0 for a tensor that is zero throughout."""
    distance = (compressed.float() - tensor.float()).square().sum()
    size = tensor.float().square().sum().clamp(min=torch.finfo(torch.float32).tiny)
    return float((distance / size).sqrt())


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        shown = [f"{entry:.3g}" for entry in value.flatten()[:8].tolist()]
        return f"[{', '.join(shown)}{', …' if value.numel() > 8 else ''}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
