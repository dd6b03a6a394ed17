"""Checks that a converted program really holds the compression that was asked for.

coremltools drops what it does not recognise, or what a target cannot carry, without an error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import coremltools as ct

from lightning_compress.errors import CompressionError
from lightning_compress.package.opening import open_package
from lightning_compress.package.storage import Integers, Palette, Storage
from lightning_compress.package.targets import Capability
from lightning_compress.package.weights import iterate_operations, iterate_weights


def present_capabilities(model: ct.models.MLModel) -> frozenset[Capability]:
    """The capabilities that the program of a converted model makes use of."""
    program = open_package(model).program()
    found = {
        capability
        for weight in iterate_weights(program)
        for capability, holds in _OF_STORAGE.items()
        if holds(weight.storage)
    }
    if any(operation.op_type == "quantize" for operation in iterate_operations(program)):
        found.add(Capability.INT8_ACTIVATIONS)
    return frozenset(found)


def require_present(capabilities: Collection[Capability], model: ct.models.MLModel) -> None:
    """Raise if a converted model lacks one of `capabilities`.

    Raises:
        CompressionError: Naming what is missing.
    """
    asked = set(capabilities) - _OF_TARGETS_ALONE
    missing = sorted(c.value for c in asked - present_capabilities(model)) if asked else []
    if missing:
        raise CompressionError(
            f"the converted program holds no {', no '.join(missing)}, although the compression asks for it. "
            "Was the module finalized, after the compression's schedule had begun, and are its layers large "
            "enough to be compressed?"
        )


def _palettized(storage: Storage, holds: Callable[[Palette], bool]) -> bool:
    return storage.palette is not None and holds(storage.palette)


def _quantized(storage: Storage, holds: Callable[[Integers], bool]) -> bool:
    return storage.integers is not None and holds(storage.integers)


_OF_STORAGE: dict[Capability, Callable[[Storage], bool]] = {
    Capability.SPARSE_WEIGHTS: lambda storage: storage.sparse,
    Capability.LUT: lambda storage: _palettized(storage, lambda palette: palette.bits != 3),
    Capability.LUT_3_BIT: lambda storage: _palettized(storage, lambda palette: palette.bits == 3),
    Capability.LUT_GROUPED: lambda storage: _palettized(
        storage, lambda palette: not palette.granularity.is_per_tensor
    ),
    Capability.LUT_PER_CHANNEL_SCALE: lambda storage: _palettized(
        storage, lambda palette: palette.per_channel_scale
    ),
    Capability.LUT_VECTOR: lambda storage: _palettized(storage, lambda palette: palette.vector_length > 1),
    Capability.LUT_INT8: lambda storage: _palettized(
        storage, lambda palette: palette.entries.is_integer and palette.entries.bits == 8
    ),
    Capability.INT8_WEIGHTS: lambda storage: _quantized(storage, lambda integers: integers.number.bits == 8),
    Capability.INT4_WEIGHTS: lambda storage: _quantized(storage, lambda integers: integers.number.bits == 4),
    Capability.BLOCKWISE_WEIGHTS: lambda storage: _quantized(
        storage, lambda integers: integers.granularity.is_grouped or integers.granularity.is_blockwise
    ),
    Capability.JOINT: lambda storage: len(storage.techniques) > 1,
}

_OF_TARGETS_ALONE = frozenset({Capability.RECURRENT_WEIGHTS})
"""What a target must be able to hold, and nothing in a weight's own storage shows."""
