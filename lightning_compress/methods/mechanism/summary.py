"""What each layer of a finalized module holds, and what that costs in bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from torch import nn

from lightning_compress.methods.mechanism.stored import read_stored
from lightning_compress.package.rendering import format_bytes

_HALF = 2
"""Bytes of a float16 value."""


@dataclass(frozen=True)
class LayerSummary:
    """One weight of a finalized module.

    Attributes:
        name: Dotted name of the parameter.
        parameters: Number of weights.
        technique: `"dense"`, or what was done, such as `"pruned + palettized"`.
        dense_reason: Why it is dense, if it is and that is known.
        bits: Bits a stored value takes: 16, those of an index, or those of an integer.
        sparsity: Fraction of zeros.
        bytes_before: Bytes at float16.
        bytes_after: Bytes with index, palette, mask and scale as the program will store them.
    """

    name: str
    parameters: int
    technique: str
    bits: int
    sparsity: float
    bytes_before: int
    bytes_after: int
    dense_reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain types."""
        return asdict(self)


def summarize(module: nn.Module, dense_reasons: Mapping[str, str] | None = None) -> list[LayerSummary]:
    """Summarize the parameters of a finalized module that have two or more dimensions.

    Args:
        module: A finalized module.
        dense_reasons: Why parameters are not compressed, by their dotted names.
    """
    reasons = dense_reasons or {}
    return [
        _summarize_parameter(
            submodule, f"{name}.{parameter_name}".lstrip("."), parameter_name, parameter, reasons
        )
        for name, submodule in module.named_modules()
        for parameter_name, parameter in submodule.named_parameters(recurse=False)
        if parameter.dim() > 1
    ]


def _summarize_parameter(
    module: nn.Module, name: str, key: str, parameter: torch.Tensor, reasons: Mapping[str, str]
) -> LayerSummary:
    stored = read_stored(module, key)
    count = parameter.numel()
    nonzero = int(parameter.count_nonzero())
    bits, entry, extra = 16, 1, 0
    techniques = ["pruned"] if stored.sparse else []
    if stored.palette is not None:
        techniques.append("palettized")
        lut, scale = stored.palette.lut, stored.palette.scale
        bits, entry = round(math.log2(lut.shape[-2])), lut.shape[-1]
        extra = _HALF * (lut.numel() + (0 if scale is None else scale.numel()))
        if stored.palette.entries is not None:
            techniques.append("quantized")
            extra -= lut.numel()
    elif stored.integers is not None:
        techniques.append("quantized")
        bits = stored.integers.n_bits
        zeros = 0 if stored.integers.zero_point is None else 1
        extra = stored.integers.scale.numel() * (_HALF + zeros)
    kept = nonzero if stored.sparse else count
    mask = math.ceil(count / entry / 8) if stored.sparse else 0
    return LayerSummary(
        name=name,
        parameters=count,
        technique=" + ".join(techniques) or "dense",
        bits=bits,
        sparsity=1 - nonzero / count if count else 0.0,
        bytes_before=count * _HALF,
        bytes_after=math.ceil(kept / entry * bits / 8) + extra + mask,
        dense_reason="" if techniques else reasons.get(name, ""),
    )


def summary_table(layers: list[LayerSummary], title: str = "Compression by layer") -> Table:
    """The layers as a table to print with rich, with a line of totals."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", overflow="fold", min_width=12)
    for heading in ("weights", "technique", "bits", "zeros", "float16", "stored"):
        in_words = heading == "technique"
        table.add_column(heading, justify="left" if in_words else "right", no_wrap=not in_words)
    for layer in layers:
        table.add_row(*_cells(layer))
    count = sum(layer.parameters for layer in layers)
    zeros = sum(layer.sparsity * layer.parameters for layer in layers)
    before, after = sum(layer.bytes_before for layer in layers), sum(layer.bytes_after for layer in layers)
    if after:
        table.caption = f"{before / after:.1f} times smaller than at float16"
        table.caption_justify = "left"
    table.add_section()
    table.add_row(
        "all",
        f"{count:,}",
        "",
        "",
        f"{zeros / max(count, 1):.1%}",
        format_bytes(before),
        format_bytes(after),
        style="bold",
    )
    return table


def _cells(layer: LayerSummary) -> list[RenderableType]:
    return [
        Text(layer.name),
        f"{layer.parameters:,}",
        Text(f"{layer.technique}: {layer.dense_reason}" if layer.dense_reason else layer.technique),
        str(layer.bits),
        f"{layer.sparsity:.1%}",
        format_bytes(layer.bytes_before),
        format_bytes(layer.bytes_after),
    ]
