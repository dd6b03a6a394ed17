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

from lightning_compress.errors import PackageError
from lightning_compress.float16 import count_patterns
from lightning_compress.package.explaining import reason
from lightning_compress.package.files import shown
from lightning_compress.package.interface import Feature, PackageFunction, read_functions, read_labels
from lightning_compress.package.known_problems import is_divided_by_scale, known_problems
from lightning_compress.package.layer_metadata import LayerMetadata, read_layer_metadata
from lightning_compress.package.opening import Package, open_package
from lightning_compress.package.sizes import float16_weight_bytes, package_bytes, weight_bytes
from lightning_compress.package.storage import Storage
from lightning_compress.package.targets import target_name
from lightning_compress.package.versions import read_one_version
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
        layers: The weights, in the order of the operations; those that functions share, once.
        functions: Its functions, the default one first.
        labels: Class labels of a classifier.
        known_problems: What in it is known to fail on devices, in sentences.
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
    functions: tuple[PackageFunction, ...]
    labels: tuple[str, ...]
    known_problems: tuple[str, ...]
    author: str
    license: str
    description: str
    version: str
    user_metadata: Mapping[str, str]

    @property
    def inputs(self) -> tuple[Feature, ...]:
        """The inputs of the default function."""
        return self.functions[0].inputs

    @property
    def outputs(self) -> tuple[Feature, ...]:
        """The outputs of the default function."""
        return self.functions[0].outputs


def inspect(package: str | Path | ct.models.MLModel) -> PackageReport:
    """Read a package on any system and describe it.

    Args:
        package: Path of an `.mlpackage` folder, or a converted model.

    Raises:
        PackageError: If it cannot be read.
    """
    return read_one_version(package, lambda: _report(open_package(package)))


def _report(opened: Package) -> PackageReport:
    program = opened.program()
    weights = _weights(opened, program)
    operations = list(iterate_operations(program))
    description = opened.description
    layers, divided = _layers(weights, opened)
    return PackageReport(
        path=opened.path,
        target=target_name(opened.specification_version),
        specification_version=opened.specification_version,
        package_bytes=package_bytes(opened.path),
        weight_bytes=weight_bytes(opened),
        float16_weight_bytes=float16_weight_bytes(weights),
        operations=dict(Counter(operation.op_type for operation in operations).most_common()),
        layers=layers,
        functions=read_functions(opened, operations),
        labels=read_labels(opened),
        known_problems=known_problems({layer.name: layer.storage for layer in layers}, divided),
        author=description.metadata.author,
        license=description.metadata.license,
        description=description.metadata.shortDescription,
        version=description.metadata.versionString,
        user_metadata=dict(description.metadata.userDefined),
    )


def decompressed_weights(package: str | Path | ct.models.MLModel) -> dict[str, npt.NDArray[Any]]:
    """The weights of a package as dense arrays, by the names that `inspect` gives them, in the same order.

    Args:
        package: Path of a package, or a model in memory.

    Raises:
        PackageError: If the package cannot be read.
    """

    def read() -> dict[str, npt.NDArray[Any]]:
        opened = open_package(package)
        weights = _weights(opened, opened.program())
        names = weight_names(weights, read_layer_metadata(opened.description.metadata.userDefined))
        return {name: _values(weight, opened) for name, weight in zip(names, weights, strict=True)}

    return read_one_version(package, read)


def _weights(opened: Package, program: Any) -> list[Weight]:
    try:
        return list(iterate_weights(program))
    # Which forms of compressed weights there are is coremltools' to check, and it leaves some of it.
    except Exception as error:
        raise PackageError(f"the weights of {shown(opened.path)} cannot be read: {reason(error)}") from error


def _values(weight: Weight, opened: Package) -> npt.NDArray[Any]:
    try:
        return weight.values()
    except Exception as error:
        raise PackageError(
            f"weight {weight.name!r} of {shown(opened.path)} cannot be decompressed: {reason(error)}"
        ) from error


def _layers(weights: list[Weight], opened: Package) -> tuple[tuple[Layer, ...], list[str]]:
    """The layers, and the names of those whose values look divided by a scale."""
    metadata = read_layer_metadata(opened.description.metadata.userDefined)
    layers, divided = [], []
    for name, weight in zip(weight_names(weights, metadata), weights, strict=True):
        values = _values(weight, opened)
        layers.append(
            Layer(
                name=name,
                operation=weight.operation,
                shape=weight.shape,
                parameters=weight.size,
                storage=weight.storage,
                sparsity=float(np.mean(values == 0)) if values.size else 0.0,
                distinct_values=_distinct(values),
                float16_bytes=weight.float16_bytes,
                dense_reason="" if weight.storage.techniques else metadata.dense.get(name, ""),
            )
        )
        if not weight.storage.techniques and is_divided_by_scale(values):
            divided.append(name)
    return tuple(layers), divided


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
