"""How a weight is stored: which elements, what they are looked up in or scaled by, and its bytes."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import types

from lightning_compress.package.granularity import Granularity


class NumberKind(str, enum.Enum):
    """What a number is, whatever its bits."""

    FLOAT = "float"
    SIGNED = "int"
    UNSIGNED = "uint"


@dataclass(frozen=True)
class NumberType:
    """The type of a stored number.

    Attributes:
        kind: Floating point, or integers with a sign or without.
        bits: Bits of one, from 1 on.
    """

    kind: NumberKind
    bits: int

    @property
    def is_integer(self) -> bool:
        """Whether it holds integers."""
        return self.kind is not NumberKind.FLOAT

    def __str__(self) -> str:
        """As numpy would name it: "float16", "uint4"."""
        return f"{self.kind.value}{self.bits}"


@dataclass(frozen=True)
class Palette:
    """The palettes (LUTs) that a weight's indices are looked up in.

    Attributes:
        bits: Bits of an index.
        granularity: What shares a palette.
        vector_length: Number of weights that one entry stands for.
        entries: Type of an entry's numbers as stored.
        per_channel_scale: Whether the palette, or what is looked up in it, is scaled channel by channel.
    """

    bits: int
    granularity: Granularity
    vector_length: int
    entries: NumberType
    per_channel_scale: bool


@dataclass(frozen=True)
class Integers:
    """The integers that a weight is quantized to.

    Attributes:
        number: Their type.
        granularity: What shares a scale.
        zero_points: Whether zero points are stored beside the scales.
    """

    number: NumberType
    granularity: Granularity
    zero_points: bool


@dataclass(frozen=True)
class Storage:
    """How a weight is stored.

    Attributes:
        sparse: Whether only what is not zero is stored, with a mask.
        palette: What indices are looked up in; None where values are stored.
        integers: What values are quantized to; None for indices and floats.
        number: Type of the values themselves, where they are neither looked up nor quantized.
        stored_bytes: Bytes in the package.
    """

    sparse: bool
    palette: Palette | None
    integers: Integers | None
    number: NumberType
    stored_bytes: int

    @property
    def techniques(self) -> tuple[str, ...]:
        """Every technique that the weight went through, in order; empty for a dense weight."""
        quantized = self.integers is not None or (
            self.palette is not None and self.palette.entries.is_integer
        )
        present = {"pruned": self.sparse, "palettized": self.palette is not None, "quantized": quantized}
        return tuple(name for name, holds in present.items() if holds)

    @property
    def technique(self) -> str:
        """The techniques in words: "dense", "palettized", "pruned + quantized"."""
        return " + ".join(self.techniques) or "dense"

    @property
    def bits(self) -> int:
        """Bits of one stored element: of a palette index, of a quantized value, or of a float."""
        if self.palette is not None:
            return self.palette.bits
        return self.number.bits if self.integers is None else self.integers.number.bits

    @property
    def granularity(self) -> str:
        """What shares a palette or a scale, in words; empty for dense and pruned weights."""
        shared = self.palette or self.integers
        return "" if shared is None else str(shared.granularity)

    @property
    def details(self) -> tuple[str, ...]:
        """Whatever else there is, in words: "vectors of 2", "int8 palette", "per-channel scale"."""
        if self.palette is None:
            return ()
        present = {
            f"vectors of {self.palette.vector_length}": self.palette.vector_length > 1,
            f"int{self.palette.entries.bits} palette": self.palette.entries.is_integer,
            "per-channel scale": self.palette.per_channel_scale,
        }
        return tuple(text for text, holds in present.items() if holds)


_CONTENTS = frozenset(
    [
        *("data", "quantized_data", "nonzero_data", "source_val", "indices", "indices_nonzero_data", "lut"),
        *("mask", "data_mask", "indices_mask", "scale", "offset", "zero_point"),
    ]
)
"""Inputs of `constexpr_*` operations that hold what is stored, as opposed to shapes and axes."""

_VALUES = ("data", "quantized_data", "nonzero_data", "source_val")
"""Those that hold the values themselves."""


def read_storage(variable: Any) -> Storage:
    """How a weight, the output of a `const` or `constexpr_*` operation, is stored."""
    operations = list(_constexpr_operations(variable))
    lookup = next((operation for operation in operations if "lut" in operation.inputs), None)
    scaling = next((operation for operation in operations if "scale" in operation.inputs), None)
    shape = tuple(int(extent) for extent in variable.shape)
    return Storage(
        sparse=any(operation.op_type == "constexpr_sparse_to_dense" for operation in operations),
        palette=None if lookup is None else _palette(lookup, scaling, shape),
        integers=_integers(scaling, shape) if lookup is None and scaling is not None else None,
        number=_number_of_values(variable, operations),
        stored_bytes=sum(_stored_bytes(constant) for constant in _constants(variable, operations)),
    )


def stored_constants(variable: Any) -> list[Any]:
    """The constants that a weight, the output of a `const` or `constexpr_*` operation, is stored as."""
    return _constants(variable, list(_constexpr_operations(variable)))


def _palette(lookup: Any, scaling: Any | None, shape: tuple[int, ...]) -> Palette:
    lut = lookup.lut
    if len(lut.shape) == 1:  # iOS16's form: one palette for the tensor
        n_entries, vector_length, granularity = lut.shape[0], 1, Granularity.whole(shape)
    else:
        n_entries, vector_length = lut.shape[-2:]
        granularity = Granularity(shape, tuple(int(count) for count in lut.shape[:-2]))
    entries = _number(lut if lut.val is not None else lut.op.data)
    return Palette(
        bits=int(np.log2(n_entries)),
        granularity=granularity,
        vector_length=int(vector_length),
        entries=entries,
        # Integers have a scale in any case, of what shares the palette.
        per_channel_scale=scaling is not None
        and (not entries.is_integer or _granularity(scaling, shape).separates_channels),
    )


def _integers(scaling: Any, shape: tuple[int, ...]) -> Integers:
    data = next(scaling.inputs[name] for name in _VALUES if scaling.inputs.get(name) is not None)
    return Integers(
        number=_number(data),
        granularity=_granularity(scaling, shape),
        zero_points=any(scaling.inputs.get(name) is not None for name in ("offset", "zero_point")),
    )


def _granularity(scaling: Any, shape: tuple[int, ...]) -> Granularity:
    counts = tuple(int(count) for count in scaling.scale.shape)
    if (
        len(counts) == len(shape) + 2
    ):  # of a palette, which has axes for its entries and their vectors besides
        counts = counts[:-2]
    if len(counts) == len(shape) and "axis" not in scaling.inputs:
        return Granularity(shape, counts)
    # iOS16's form: a scale for the tensor, or one for each index of an axis.
    groups = [1] * len(shape)
    groups[int(scaling.axis.val)] = int(np.prod(counts))
    return Granularity(shape, tuple(groups))


def _number_of_values(variable: Any, operations: list[Any]) -> NumberType:
    """The type of a weight's values: as stored where they are, or as they are computed where they are not."""
    stored = [operation.inputs.get(name) for operation in operations for name in _VALUES]
    constant = next((value for value in stored if value is not None and value.val is not None), None)
    if constant is not None and not _number(constant).is_integer:
        return _number(constant)
    return _number(variable)


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


def _constants(variable: Any, operations: list[Any]) -> list[Any]:
    """The constants that a weight is stored as, each once though a mask may feed two operations."""
    if not operations:
        return [variable]
    sources = [
        source
        for operation in operations
        for name, source in operation.inputs.items()
        if name in _CONTENTS and source is not None and source.op.op_type == "const"
    ]
    return list(dict.fromkeys(sources))


def _stored_bytes(constant: Any) -> int:
    return -(-int(np.asarray(constant.val).size) * _number(constant).bits // 8)


def _number(variable: Any) -> NumberType:
    dtype = variable.dtype
    if types.is_float(dtype):
        return NumberType(NumberKind.FLOAT, int(dtype.get_bitwidth()))
    if types.is_bool(dtype):  # masks in memory; a byte each
        return NumberType(NumberKind.UNSIGNED, 8)
    kind = NumberKind.UNSIGNED if types.is_unsigned_int(dtype) else NumberKind.SIGNED
    return NumberType(kind, int(dtype.get_bitwidth()))
