"""What a package holds: operations, weights by layer, inputs, outputs, target, metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import numpy.typing as npt

from lightning_compress.float16 import count_patterns
from lightning_compress.package.layer_metadata import LayerMetadata, read_layer_metadata
from lightning_compress.package.opening import Package, open_package
from lightning_compress.package.reader import suppression_of
from lightning_compress.package.sizes import float16_weight_bytes, package_bytes, weight_bytes
from lightning_compress.package.storage import Storage
from lightning_compress.package.targets import target_name
from lightning_compress.package.weights import Weight, iterate_operations, iterate_weights


@dataclass(frozen=True)
class Layer:
    """One weight of a package.

    Attributes:
        name: Dotted name of the torch parameter in the module that was exported. In a package of other
            exporters, the name that the converter derived from it; where it fused the weight with a neighbour
            and lost the name, the operation and its place among those of its type ("conv_3.weight").
        operation: Type of the operation that takes it.
        shape: Shape of the decompressed weight.
        parameters: Number of elements.
        storage: How it is stored.
        sparsity: Share of elements that are zero.
        distinct_values: Number of different values.
        float16_bytes: Bytes of the weight, dense, at float16.
        dense_reason: Why it is not compressed, where the export wrote that down.
    """

    name: str
    operation: str
    shape: tuple[int, ...]
    parameters: int
    storage: Storage
    sparsity: float
    distinct_values: int
    float16_bytes: int
    dense_reason: str = ""

    @property
    def technique(self) -> str:
        """The techniques that it went through: "dense", "palettized", "pruned + quantized"."""
        return self.storage.technique

    @property
    def bits(self) -> int:
        """Bits of a palette index, a quantized value or a float."""
        return self.storage.bits

    @property
    def granularity(self) -> str:
        """What shares a palette or a scale, in words."""
        return self.storage.granularity

    @property
    def details(self) -> tuple[str, ...]:
        """Whatever else there is, in words, such as "vectors of 2"."""
        return self.storage.details

    @property
    def stored_bytes(self) -> int:
        """Bytes of it in the package."""
        return self.storage.stored_bytes


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
class PackageReport:
    """Everything that `lightning-compress inspect` shows; `rendering.render` prints it.

    Attributes:
        path: The package.
        target: The lowest systems that run it ("iOS18 / macOS15").
        specification_version: The same as Core ML counts it.
        package_bytes: Bytes of all its files.
        weight_bytes: Bytes of its weight files.
        float16_weight_bytes: Bytes of the weight file of the same model, dense, at float16.
        operations: How many there are of each type, most frequent first.
        layers: The weights, in the order of the operations.
        inputs: Its inputs.
        outputs: Its outputs.
        labels: Class labels of a classifier.
        author: Author.
        license: License.
        description: Description.
        version: Version.
        user_metadata: Other metadata.
    """

    path: Path
    target: str
    specification_version: int
    package_bytes: int
    weight_bytes: int
    float16_weight_bytes: int
    operations: Mapping[str, int]
    layers: tuple[Layer, ...]
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    labels: tuple[str, ...]
    author: str
    license: str
    description: str
    version: str
    user_metadata: Mapping[str, str]


def inspect(package: str | Path | ct.models.MLModel) -> PackageReport:
    """Read a package on any system and describe it.

    Args:
        package: Path of an `.mlpackage` folder, or a converted model.

    Raises:
        PackageError: If it cannot be read.
    """
    opened = open_package(package)
    program = opened.program()
    weights = list(iterate_weights(program))
    operations = list(iterate_operations(program))
    description = opened.description
    constants = _small_constants(operations)
    return PackageReport(
        path=opened.path,
        target=target_name(opened.specification_version),
        specification_version=opened.specification_version,
        package_bytes=package_bytes(opened.path),
        weight_bytes=weight_bytes(opened),
        float16_weight_bytes=float16_weight_bytes(weights),
        operations=dict(Counter(operation.op_type for operation in operations).most_common()),
        layers=_layers(weights, read_layer_metadata(description.metadata.userDefined)),
        inputs=tuple(_feature(feature, constants) for feature in description.input),
        outputs=tuple(_feature(feature, {}) for feature in description.output),
        labels=_labels(opened),
        author=description.metadata.author,
        license=description.metadata.license,
        description=description.metadata.shortDescription,
        version=description.metadata.versionString,
        user_metadata=dict(description.metadata.userDefined),
    )


def decompressed_weights(package: str | Path | ct.models.MLModel) -> dict[str, npt.NDArray[Any]]:
    """The weights of a package as dense arrays, by the names that `inspect` gives them, in the same order.

    Raises:
        PackageError: If the package cannot be read.
    """
    opened = open_package(package)
    weights = list(iterate_weights(opened.program()))
    names = weight_names(weights, read_layer_metadata(opened.description.metadata.userDefined))
    return {name: weight.values() for name, weight in zip(names, weights, strict=True)}


def _layers(weights: list[Weight], metadata: LayerMetadata) -> tuple[Layer, ...]:
    layers = []
    for name, weight in zip(weight_names(weights, metadata), weights, strict=True):
        values = weight.values()
        layers.append(
            Layer(
                name=name,
                operation=weight.operation,
                shape=weight.shape,
                parameters=weight.size,
                storage=weight.storage,
                sparsity=float(np.mean(values == 0)),
                distinct_values=_distinct(values),
                float16_bytes=weight.float16_bytes,
                dense_reason="" if weight.storage.techniques else metadata.dense.get(name, ""),
            )
        )
    return tuple(layers)


def _distinct(values: npt.NDArray[Any]) -> int:
    if values.dtype == np.float16:
        return int(np.count_nonzero(count_patterns(values)))
    return int(np.unique(values).size)


def weight_names(weights: Sequence[Weight], metadata: LayerMetadata) -> list[str]:
    """A name for each weight, none twice."""
    places: Counter[tuple[str, str]] = Counter()
    taken: Counter[str] = Counter()
    names = []
    for weight in weights:
        place = places[weight.operation, weight.parameter]
        places[weight.operation, weight.parameter] += 1
        lost = weight.name.startswith("const_") and weight.name.removeprefix("const_").isdigit()
        name = f"{weight.operation}_{place}.{weight.parameter}" if lost else metadata.name(weight.name)
        taken[name] += 1
        names.append(name if taken[name] == 1 else f"{name}_{taken[name]}")
    return names


def _small_constants(operations: list[Any]) -> dict[str, tuple[float, ...]]:
    """Image scales and biases, by the names that coremltools gives to the operations which apply them."""
    found = {}
    for operation in operations:
        name = operation.outputs[0].name if operation.outputs else ""
        for mark in ("__scaled__", "__biased__"):
            if mark in name and operation.y.val is not None:
                found[name.split(mark)[0] + mark] = tuple(
                    float(v) for v in np.atleast_1d(operation.y.val).ravel()
                )
    return found


def _feature(feature: Any, constants: Mapping[str, tuple[float, ...]]) -> Feature:
    kind = feature.type.WhichOneof("Type")
    shape: tuple[int, ...] = ()
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    name = kind.removesuffix("Type") if kind else "unknown"
    if kind == "imageType":
        image = feature.type.imageType
        name = f"image {image.ColorSpace.Name(image.colorSpace)}"
        shape = (image.height, image.width)
        scale = constants.get(f"{feature.name}__scaled__", (1.0,))
        bias = constants.get(f"{feature.name}__biased__", (0.0,))
    elif kind == "multiArrayType":
        array = feature.type.multiArrayType
        name = f"array {array.ArrayDataType.Name(array.dataType).lower()}"
        shape = tuple(array.shape)
    elif kind == "doubleType" and feature.type.isOptional:
        name = "double, optional"
    return Feature(feature.name, name, shape, feature.shortDescription, scale, bias)


def _labels(package: Package) -> tuple[str, ...]:
    suppression = None if package.pipeline is None else suppression_of(package.pipeline)
    if suppression is not None:
        return tuple(suppression.nonMaximumSuppression.stringClassLabels.vector)
    for function in package.specification.mlProgram.functions.values():
        for block in function.block_specializations.values():
            for operation in block.operations:
                if operation.type == "classify":
                    classes = operation.inputs["classes"].arguments[0].value.immediateValue.list.values
                    return tuple(_label(value.immediateValue.tensor) for value in classes)
    return ()


def _label(tensor: Any) -> str:
    kind = tensor.WhichOneof("value")
    return str(getattr(tensor, kind).values[0])
