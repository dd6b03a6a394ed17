"""What each layer of a finalized module holds, and what that costs in bytes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import nn

from lightning_compress.package.rendering import format_bytes

_TECHNIQUES = {1: "pruned", 2: "palettized", 3: "quantized"}
"""coremltools' numbers in the buffer `_COREML_/<parameter>/compression_type`."""

_HALF = 2
"""Bytes of a float16 value."""


@dataclass(frozen=True)
class LayerSummary:
    """One weight of a finalized module.

    Attributes:
        name: Dotted name of the parameter.
        parameters: Number of weights.
        technique: `"dense"`, or what was done, such as `"pruned + palettized"`.
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

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain types."""
        return asdict(self)


def summarize(module: nn.Module) -> list[LayerSummary]:
    """Summarize the parameters of a finalized module that have two or more dimensions."""
    return [
        _summarize_parameter(submodule, f"{name}.{parameter_name}".lstrip("."), parameter_name, parameter)
        for name, submodule in module.named_modules()
        for parameter_name, parameter in submodule.named_parameters(recurse=False)
        if parameter.dim() > 1
    ]


def _summarize_parameter(module: nn.Module, name: str, key: str, parameter: torch.Tensor) -> LayerSummary:
    buffers = dict(module.named_buffers(recurse=False))
    types = buffers.get(f"_COREML_/{key}/compression_type")
    lut = buffers.get(f"_COREML_/{key}/lut")
    scale = buffers.get(f"_COREML_/{key}/palettization_scale")
    bits_buffer = buffers.get(f"_COREML_/{key}/quantization_n_bits")
    kinds = set() if types is None else {int(kind) for kind in types.tolist()}
    count = parameter.numel()
    nonzero = int(parameter.count_nonzero())
    bits, entry, extra = 16, 1, 0
    if lut is not None:
        bits, entry = round(math.log2(lut.shape[-2])), lut.shape[-1]
        extra = lut.numel() * _HALF + (0 if scale is None else scale.numel() * _HALF)
    elif 3 in kinds and bits_buffer is not None:
        bits = int(bits_buffer)
        extra = parameter.shape[0] * (_HALF + 1)
    stored = nonzero if 1 in kinds else count
    mask = math.ceil(count / 8) if 1 in kinds else 0
    order = [_TECHNIQUES[kind] for kind in (1, 2, 3) if kind in kinds]
    return LayerSummary(
        name=name,
        parameters=count,
        technique=" + ".join(order) or "dense",
        bits=bits,
        sparsity=1 - nonzero / count if count else 0.0,
        bytes_before=count * _HALF,
        bytes_after=math.ceil(stored / entry * bits / 8) + extra + mask,
    )


def summary_table(layers: list[LayerSummary], title: str = "Compression by layer") -> Table:
    """The layers as a table to print with rich, with a line of totals."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", overflow="fold", min_width=12)
    for heading in ("weights", "technique", "bits", "zeros", "float16", "stored"):
        table.add_column(heading, justify="left" if heading == "technique" else "right", no_wrap=True)
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


def _cells(layer: LayerSummary) -> list[str]:
    return [
        layer.name.removesuffix(".weight"),
        f"{layer.parameters:,}",
        layer.technique,
        str(layer.bits),
        f"{layer.sparsity:.1%}",
        format_bytes(layer.bytes_before),
        format_bytes(layer.bytes_after),
    ]
