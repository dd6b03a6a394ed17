"""Checks that a converted program really holds the compression that was asked for.

coremltools drops what it does not recognise, or what a target cannot carry, without an error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import coremltools as ct

from lightning_compress.errors import CompressionError
from lightning_compress.package.opening import open_package
from lightning_compress.package.targets import Capability
from lightning_compress.package.weights import Weight, iterate_operations, iterate_weights


def present_capabilities(model: ct.models.MLModel) -> frozenset[Capability]:
    """The capabilities that the program of a converted model makes use of."""
    program = open_package(model).program()
    found = {
        capability
        for weight in iterate_weights(program)
        for capability, holds in _OF_WEIGHT.items()
        if holds(weight)
    }
    if any(operation.op_type == "quantize" for operation in iterate_operations(program)):
        found.add(Capability.INT8_ACTIVATIONS)
    return frozenset(found)


def require_present(capabilities: Collection[Capability], model: ct.models.MLModel) -> None:
    """Raise if a converted model lacks one of `capabilities`.

    Raises:
        CompressionError: Naming what is missing.
    """
    missing = sorted(c.value for c in set(capabilities) - present_capabilities(model)) if capabilities else []
    if missing:
        raise CompressionError(
            f"the converted program holds no {', no '.join(missing)}, although the compression asks for it. "
            "Was the module finalized, after the compression's schedule had begun, and are its layers large "
            "enough to be compressed?"
        )


def _technique(weight: Weight) -> list[str]:
    return weight.storage.technique.split(" + ")


_OF_WEIGHT: dict[Capability, Callable[[Weight], bool]] = {
    Capability.SPARSE_WEIGHTS: lambda weight: "pruned" in _technique(weight),
    Capability.LUT: lambda weight: "palettized" in _technique(weight) and weight.storage.bits != 3,
    Capability.LUT_3_BIT: lambda weight: "palettized" in _technique(weight) and weight.storage.bits == 3,
    Capability.LUT_GROUPED: lambda weight: (
        "palettized" in _technique(weight) and weight.storage.granularity != "per tensor"
    ),
    Capability.LUT_PER_CHANNEL_SCALE: lambda weight: "per-channel scale" in weight.storage.details,
    Capability.LUT_VECTOR: lambda weight: any(d.startswith("vectors") for d in weight.storage.details),
    Capability.LUT_INT8: lambda weight: "int8 palette" in weight.storage.details,
    Capability.INT8_WEIGHTS: lambda weight: (
        _technique(weight)[-1] == "quantized" and weight.storage.bits == 8
    ),
    Capability.INT4_WEIGHTS: lambda weight: (
        _technique(weight)[-1] == "quantized" and weight.storage.bits == 4
    ),
    Capability.BLOCKWISE_WEIGHTS: lambda weight: (
        _technique(weight)[-1] == "quantized" and weight.storage.granularity.startswith(("blocks", "groups"))
    ),
    Capability.JOINT: lambda weight: len(_technique(weight)) > 1,
}
