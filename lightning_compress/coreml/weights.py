"""The weights of a program, each with how it is stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_compress.coreml.workarounds import lean_lookup

_LEAST_ELEMENTS = 10
"""Smaller constants are parameters of operations; coremltools keeps them out of the weight file."""

_NAME_SUFFIXES = re.compile(
    r"(_to_fp16|_to_fp32|_palettized_pcs|_palettized|_sparsified|_quantized|_affine_dequantize)+$"
)


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


@dataclass(frozen=True)
class Weight:
    """A constant tensor that an operation takes.

    Attributes:
        name: Name of the weight, as the converter derived it from the torch parameter.
        operation: Type of the operation that takes it ("conv").
        parameter: Which of the operation's inputs it is ("weight").
        shape: Shape of the decompressed weight.
        storage: How it is stored.
    """

    name: str
    operation: str
    parameter: str
    shape: tuple[int, ...]
    storage: Storage
    _variable: Any

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    @property
    def float16_bytes(self) -> int:
        """Bytes of the same weight, dense, at float16."""
        return 2 * self.size

    def values(self) -> npt.NDArray[Any]:
        """The decompressed values."""
        return decompressed(self._variable)


def iterate_weights(program: Any) -> Iterator[Weight]:
    """The floating-point weights of a coremltools `Program`, in the order of its operations, each once."""
    for function in program.functions.values():
        yield from _weights_of_block(function, set())


def iterate_operations(program: Any) -> Iterator[Any]:
    """The operations of a coremltools `Program` that compute something, nested blocks included."""
    for function in program.functions.values():
        yield from _operations_of_block(function)


def decompressed(variable: Any) -> npt.NDArray[Any]:
    """The values of a constant, whichever way it is stored."""
    if variable.val is not None:
        return np.asarray(variable.val)
    with lean_lookup():
        return np.asarray(variable.op.materialized_val_inference())


def _operations_of_block(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        if operation.op_type != "const" and not operation.op_type.startswith("constexpr_"):
            yield operation
        for nested in operation.blocks:
            yield from _operations_of_block(nested)


def _weights_of_block(block: Any, seen: set[Any]) -> Iterator[Weight]:
    for operation in _operations_of_block(block):
        for parameter, value in operation.inputs.items():
            for variable in value if isinstance(value, (list, tuple)) else [value]:
                if variable.op is None or variable in seen or not _is_weight(variable):
                    continue
                seen.add(variable)
                yield Weight(
                    name=_NAME_SUFFIXES.sub("", variable.name),
                    operation=operation.op_type,
                    parameter=parameter,
                    shape=tuple(int(extent) for extent in variable.shape),
                    storage=_storage(variable),
                    _variable=variable,
                )


def _is_weight(variable: Any) -> bool:
    if variable.op.op_type.startswith("constexpr_"):
        return True
    value = variable.val if variable.op.op_type == "const" else None
    return isinstance(value, np.ndarray) and value.size >= _LEAST_ELEMENTS and value.dtype.kind == "f"


def _storage(variable: Any) -> Storage:
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
        bits = (
            8 * variable.op.nonzero_data.val.dtype.itemsize
            if variable.op.nonzero_data.val is not None
            else bits
        )
    if lookup is not None:
        techniques.append("palettized")
        lut = lookup.lut
        if len(lut.shape) == 1:  # iOS16's form: one palette for the tensor
            bits, granularity = int(np.log2(lut.shape[0])), "per tensor"
        else:
            bits, granularity = int(np.log2(lut.shape[-2])), _granularity(lut.shape[:-2], variable.shape)
            if lut.shape[-1] > 1:
                details.append(f"vectors of {lut.shape[-1]}")
        if scale is not None:
            integer = lut.val is not None and lut.val.dtype.kind in "iu"
            details.append("int8 palette" if integer else "per-channel scale")
            if integer:
                techniques.append("quantized")
    elif scale is not None:
        techniques.append("quantized")
        bits = _quantized_bits(scale)
        granularity = _scale_granularity(scale, variable.shape)
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
        for source in operation.inputs.values():
            if (
                source is not None
                and source.op is not None
                and source.op.op_type == "const"
                and source not in seen
            ):
                seen.add(source)
                yield source


def _stored_bytes(constant: Any) -> int:
    value = np.asarray(constant.val)
    if value.dtype.kind not in "fiub":
        return 0
    return -(-value.size * _bit_width(constant) // 8)


def _bit_width(constant: Any) -> int:
    from coremltools.converters.mil.mil import types

    if types.is_sub_byte(constant.dtype):
        return int(constant.dtype.get_bitwidth())
    return 8 * int(np.asarray(constant.val).dtype.itemsize)


def _quantized_bits(operation: Any) -> int:
    for name in ("data", "quantized_data", "nonzero_data"):
        if name in operation.inputs and operation.inputs[name] is not None:
            return _bit_width(operation.inputs[name])
    return 8


def _scale_granularity(operation: Any, shape: tuple[int, ...]) -> str:
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
