"""The functions of a package as apps meet them: their names, inputs, outputs and labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_compress.package.opening import Package
from lightning_compress.package.reader import operations_of_function, suppression_of
from lightning_compress.package.structure import PIPELINE_FUNCTION, interfaces


@dataclass(frozen=True)
class Feature:
    """An input or an output of a package.

    Attributes:
        name: Its name.
        type: "image RGB", "array float32", "dictionary" or "string", as an app meets it.
        shape: Shape; (height, width) of an image; empty where there is none.
        description: What the author wrote about it.
        scale: Factors of an image's pixels that Core ML applies, one or one a channel.
        bias: What Core ML adds after scaling.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    description: str = ""
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()


@dataclass(frozen=True)
class PackageFunction:
    """A function of a package, by whose name `runtime.load(path, function=name)` and Core ML load it.

    Attributes:
        name: Its name; "main" in a package of one.
        inputs: Its inputs.
        outputs: Its outputs.
    """

    name: str
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]


def read_functions(package: Package, operations: Iterable[Any]) -> tuple[PackageFunction, ...]:
    """The functions of a package, the default one first; what an app meets of a pipeline is one function.

    Args:
        package: The package.
        operations: Those of its program, as coremltools reads them.
    """
    constants = _small_constants(operations)
    if package.pipeline is None:
        described = interfaces(package.specification)
    else:
        described = {PIPELINE_FUNCTION: package.description}
    return tuple(
        PackageFunction(
            name,
            tuple(_feature(feature, constants) for feature in interface.input),
            tuple(_feature(feature, {}) for feature in interface.output),
        )
        for name, interface in described.items()
    )


def read_labels(package: Package) -> tuple[str, ...]:
    """The class labels of a detector's suppression, or of a classifier's default function; empty for others."""
    suppression = None if package.pipeline is None else suppression_of(package.pipeline)
    if suppression is not None:
        return tuple(suppression.nonMaximumSuppression.stringClassLabels.vector)
    default = next(iter(interfaces(package.specification)))
    for operation in operations_of_function(package.specification.mlProgram.functions[default]):
        if operation.type == "classify" and "classes" in operation.inputs:
            classes = operation.inputs["classes"].arguments[0].value.immediateValue.list.values
            return tuple(_label(value.immediateValue.tensor) for value in classes)
    return ()


def _label(tensor: Any) -> str:
    kind = tensor.WhichOneof("value")
    values: list[Any] = list(getattr(tensor, kind).values) if kind else []
    return str(values[0]) if values else ""


def _small_constants(operations: Iterable[Any]) -> dict[str, tuple[float, ...]]:
    """Image scales and biases, by the names that coremltools gives to the operations which apply them."""
    found = {}
    for operation in operations:
        name = operation.outputs[0].name if operation.outputs else ""
        for mark in ("__scaled__", "__biased__"):
            applied = operation.inputs.get("y") if mark in name else None
            value = None if applied is None else np.asarray(applied.val)
            if value is not None and value.dtype.kind in "fiu":
                found[name.split(mark)[0] + mark] = tuple(float(v) for v in np.atleast_1d(value).ravel())
    return found


def _feature(feature: Any, constants: Mapping[str, tuple[float, ...]]) -> Feature:
    kind = feature.type.WhichOneof("Type")
    shape: tuple[int, ...] = ()
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    name = kind.removesuffix("Type") if kind else "unknown"
    if kind == "imageType":
        image = feature.type.imageType
        name = f"image {_enumerated(image.ColorSpace, image.colorSpace)}"
        shape = (image.height, image.width)
        scale = constants.get(f"{feature.name}__scaled__", (1.0,))
        bias = constants.get(f"{feature.name}__biased__", (0.0,))
    elif kind == "multiArrayType":
        array = feature.type.multiArrayType
        name = f"array {_enumerated(array.ArrayDataType, array.dataType).lower()}"
        shape = tuple(array.shape)
    elif kind == "doubleType" and feature.type.isOptional:
        name = "double, optional"
    return Feature(feature.name, name, shape, feature.shortDescription, scale, bias)


def _enumerated(enumeration: Any, number: int) -> str:
    """The name of a number, or the number: packages of later systems may have more."""
    return str(enumeration.Name(number)) if number in enumeration.values() else str(number)
