"""How a weight is stored: its technique, bits, what shares a palette or a scale, and its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import types


@dataclass(frozen=True)
class Storage:
    """How a weight is stored.

    Attributes:
        technique: "dense", "pruned", "palettized", "quantized", or two of them joined by " + ".
        bits: Bits of one stored element: of a palette index, of a quantized value, or of a float.
        granularity: What shares a palette or a scale: "per tensor", "per channel", "groups of 4", "blocks of
            32". Empty for dense and pruned weights.
        details: Whatever else there is: "vectors of 2", "per-channel scale", "int8 palette".
        stored_bytes: Bytes in the package.
    """

    technique: str
    bits: int
    granularity: str
    details: tuple[str, ...]
    stored_bytes: int


_CONTENTS = frozenset(
    [
        *("data", "quantized_data", "nonzero_data", "source_val", "indices", "indices_nonzero_data", "lut"),
        *("mask", "data_mask", "indices_mask", "scale", "offset", "zero_point"),
    ]
)
"""Inputs of `constexpr_*` operations that hold what is stored, as opposed to shapes and axes."""


def describe_storage(variable: Any) -> Storage:
    """How a weight, the output of a `const` or `constexpr_*` operation, is stored."""
    operations = list(_constexpr_operations(variable))
    kinds = {operation.op_type.removeprefix("constexpr_") for operation in operations}
    stored_bytes = sum(_stored_bytes(leaf) for leaf in _leaves(variable))
    if not operations:
        return Storage("dense", 8 * variable.val.dtype.itemsize, "", (), stored_bytes)
    techniques: list[str] = []
    details: list[str] = []
    granularity = ""
    bits = 16
    scale = next((o for o in operations if "scale" in o.inputs), None)
    lookup = next((o for o in operations if "lut" in o.inputs), None)
    if "sparse_to_dense" in kinds:
        techniques.append("pruned")
        if variable.op.nonzero_data.val is not None:
            bits = _bit_width(variable.op.nonzero_data)
    if lookup is not None:
        techniques.append("palettized")
        lut = lookup.lut
        if len(lut.shape) == 1:  # iOS16's form: one palette for the tensor
            bits, granularity = int(np.log2(lut.shape[0])), "per tensor"
        else:
            bits, granularity = int(np.log2(lut.shape[-2])), _granularity(lut.shape[:-2], variable.shape)
            if lut.shape[-1] > 1:
                details.append(f"vectors of {lut.shape[-1]}")
        entries = lut if lut.val is not None else lut.op.data
        integer = entries.val.dtype.kind in "iu"
        if integer:
            details.append(f"int{_bit_width(entries)} palette")
            techniques.append("quantized")
        if scale is not None and (not integer or _granularity_of(scale, variable.shape) == "per channel"):
            details.append("per-channel scale")
    elif scale is not None:
        techniques.append("quantized")
        bits = _quantized_bits(scale)
        granularity = _granularity_of(scale, variable.shape)
    return Storage(" + ".join(techniques) or "dense", bits, granularity, tuple(details), stored_bytes)


def _constexpr_operations(variable: Any) -> Iterator[Any]:
    if variable.op is None or not variable.op.op_type.startswith("constexpr_"):
        return
    yield variable.op
    seen = {variable.op}
    for source in variable.op.inputs.values():
        for operation in _constexpr_operations(source):
            if operation not in seen:
                seen.add(operation)
                yield operation


def _leaves(variable: Any) -> Iterator[Any]:
    """The constants that a weight is stored as, each once though a mask may feed two operations."""
    operations = list(_constexpr_operations(variable))
    if not operations:
        yield variable
        return
    seen: set[Any] = set()
    for operation in operations:
        for name, source in operation.inputs.items():
            if (
                name in _CONTENTS
                and source is not None
                and source.op.op_type == "const"
                and source not in seen
            ):
                seen.add(source)
                yield source


def _stored_bytes(constant: Any) -> int:
    return -(-int(np.asarray(constant.val).size) * _bit_width(constant) // 8)


def _bit_width(constant: Any) -> int:
    if types.is_sub_byte(constant.dtype):
        return int(constant.dtype.get_bitwidth())
    return 8 * int(np.asarray(constant.val).dtype.itemsize)


def _quantized_bits(operation: Any) -> int:
    for name in ("data", "quantized_data", "nonzero_data"):
        if name in operation.inputs and operation.inputs[name] is not None:
            return _bit_width(operation.inputs[name])
    return 8


def _granularity_of(operation: Any, shape: tuple[int, ...]) -> str:
    scale = operation.scale
    if len(scale.shape) == len(shape):
        return _granularity(scale.shape, shape)
    return "per tensor" if int(np.prod(scale.shape)) == 1 else "per channel"


def _granularity(groups: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """Names what shares one of `groups` palettes or scales of a tensor of `shape`."""
    split = [axis for axis, count in enumerate(groups) if count > 1]
    if not split:
        return "per tensor"
    sizes = [shape[axis] // groups[axis] for axis in split]
    if len(split) == 1 and sizes[0] == 1:
        return "per channel"
    finest = [size for size in sizes if size > 1]
    kind = "groups" if len(split) == 1 and split[0] == 0 else "blocks"
    return f"{kind} of {' x '.join(str(size) for size in finest) or '1'}"
