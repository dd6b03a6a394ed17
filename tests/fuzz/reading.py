"""Everything that is done with a package of unknown origin."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from lightning_compress import runtime
from lightning_compress.coreml import add_metadata, model_card, palettize_package
from lightning_compress.coreml.tolerance import Tolerance
from lightning_compress.coreml.verification import compare, run_in_torch
from lightning_compress.coreml.verification.running import output_names, program_of
from lightning_compress.package import decompressed_weights, inspect, render
from lightning_compress.runtime.interface import ProgramInput

_LARGEST_INPUT = 2**20
"""Elements of an input up to which a program is called."""


@dataclass(frozen=True)
class Read:
    """What a package was read as.

    Attributes:
        called: Whether a program was also computed.
    """

    called: bool


def load_and_call(path: str | Path) -> None:
    """Load in both precisions and compute once."""
    module = runtime.load(path)
    repr(module)
    _call(module)
    _call(runtime.load(path, precision="float16"))


def load_each_function(path: str | Path) -> None:
    """Load every function that the report names."""
    for function in inspect(path).functions:
        _call(runtime.load(path, function=function.name))


def inspect_and_print(path: str | Path) -> None:
    """The report, its tables and its card."""
    report = inspect(path)
    Console(file=io.StringIO(), width=100).print(render(report))
    model_card(report)


def decompress(path: str | Path) -> None:
    """The weights, dense."""
    decompressed_weights(path)


def verify(path: str | Path) -> None:
    """What `verify` does with a package: run it, and compare its outputs with others."""
    program = program_of(path)
    names = output_names(program)
    inputs = tuple(_example(item) for item in program.inputs)
    if all(value.numel() <= _LARGEST_INPUT for value in inputs):
        found = run_in_torch(program, [inputs])
        compare([{name: torch.zeros(4) for name in names}], found, Tolerance())


def palettize(path: str | Path) -> None:
    """Compress what was read once more."""
    palettize_package(path, [2], weight_threshold=16)


def describe(path: str | Path) -> None:
    """Add metadata, which writes the package anew."""
    add_metadata(path, {"read": "yes"})


READERS: dict[str, Callable[[str | Path], None]] = {
    "load": load_and_call,
    "load functions": load_each_function,
    "inspect": inspect_and_print,
    "decompress": decompress,
    "verify": verify,
    "palettize": palettize,
    "add metadata": describe,
}


def _example(item: ProgramInput) -> Tensor:
    shape = item.shapes[0] if item.shapes else tuple(max(size.lower, 0) for size in item.sizes)
    if math.prod(shape) > _LARGEST_INPUT:
        return torch.empty(shape, dtype=item.dtype, device="meta")
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(shape, generator=generator)
    return (values if item.dtype.is_floating_point else values * 4).to(item.dtype)


def _call(module: Any) -> None:
    inputs = [_example(item) for item in module.inputs]
    if any(value.device.type == "meta" for value in inputs):
        return
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module(*inputs)
