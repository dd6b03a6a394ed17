"""Open a Core ML package and check that what it holds can be read, before any of it is used."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coremltools import proto
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from lightning_compress.errors import PackageError
from lightning_compress.package.files import (
    LARGEST_MANIFEST,
    LARGEST_MODEL,
    read_bounded,
    require_inside,
    shown,
)
from lightning_compress.package.structure import check_model
from lightning_compress.package.weight_files import WeightFiles

_NEURAL_NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")
_PIPELINES = ("pipeline", "pipelineClassifier", "pipelineRegressor")


@dataclass(frozen=True)
class PackageContents:
    """What a package holds.

    Attributes:
        path: The package.
        specification: Its `Model` message.
        model_file: Where that was read from, links followed.
    """

    path: Path
    specification: Any
    model_file: Path

    @property
    def weights(self) -> Path:
        """The folder of the weight files, which need not exist."""
        return self.model_file.parent / "weights"


def read_package(path: str | os.PathLike[str]) -> PackageContents:
    """Read a `.mlpackage` folder; nothing in it is executed.

    Raises:
        PackageError: when the path is missing or is no package, the model is an older neural network, is
            compiled, encrypted or damaged, a program in it does not hold together, or a weight file is missing,
            shorter than the program says, or outside the package.
    """
    package = Path(os.path.expanduser(path))
    # Unlike pathlib's, these questions are answered with no for names that no file can have, and for loops of links.
    if not os.path.exists(package):
        raise PackageError(f"There is no Core ML package at {shown(package)}.")
    if not os.path.isdir(package):
        raise _file_error(package)
    if os.path.lexists(package / "encryptionInfo"):
        raise PackageError(
            f"{shown(package)} is an encrypted compiled model. Load the .mlpackage it was made from."
        )
    if package.suffix == ".mlmodelc" or os.path.lexists(package / "coremldata.bin"):
        raise PackageError(f"{shown(package)} is a compiled model. Load the .mlpackage it was compiled from.")

    model_file = _root_model(package)
    specification = _parse(model_file, package)
    kind = specification.WhichOneof("Type")
    if kind in _NEURAL_NETWORKS:
        raise PackageError(_neural_network_message(package))
    if kind != "mlProgram" and kind not in _PIPELINES:
        raise PackageError(
            f"{shown(package)} holds a model of type {kind!r}. Valid types: 'mlProgram', and pipelines of them."
        )
    contents = PackageContents(package, specification, model_file)
    weights = WeightFiles(contents.weights, package)
    for model in ml_programs_of(specification):
        check_model(model, package, weights)
    return contents


def models_of(specification: Any) -> list[Any]:
    """The models of a pipeline, in order; empty for any other model."""
    kind = specification.WhichOneof("Type")
    if kind == "pipeline":
        return list(specification.pipeline.models)
    return list(getattr(specification, kind).pipeline.models) if kind in _PIPELINES else []


def suppression_of(pipeline: Any) -> Any | None:
    """The `Model` message of the suppression that ends a pipeline's specification, or None."""
    models = models_of(pipeline)
    if len(models) == 2 and models[1].WhichOneof("Type") == "nonMaximumSuppression":
        return models[1]
    return None


def ml_programs_of(specification: Any) -> Iterator[Any]:
    """Every `Model` message with an ML Program in a specification, pipelines followed to their ends."""
    if specification.WhichOneof("Type") == "mlProgram":
        yield specification
    for model in models_of(specification):
        yield from ml_programs_of(model)


def programs_of(specification: Any) -> Iterator[Any]:
    """Every ML Program (`MILSpec.Program`) in a specification, pipelines followed to their ends."""
    for model in ml_programs_of(specification):
        yield model.mlProgram


def operations_of(program: Any) -> Iterator[Any]:
    """Every operation message of a program, those of nested blocks included."""
    for function in program.functions.values():
        yield from operations_of_function(function)


def operations_of_function(function: Any) -> Iterator[Any]:
    """Every operation message of one function of a program, those of nested blocks included."""
    for block in function.block_specializations.values():
        yield from _block_operations(block)


def _block_operations(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        for nested in operation.blocks:
            yield from _block_operations(nested)


def _file_error(path: Path) -> PackageError:
    if path.suffix == ".mlmodel" and os.path.isfile(path):
        kind = _parse(path, path).WhichOneof("Type")
        if kind in _NEURAL_NETWORKS:
            return PackageError(_neural_network_message(path))
        return PackageError(
            f"{shown(path)} is a single-file model of type {kind!r}; only .mlpackage folders are read."
        )
    return PackageError(
        f"{shown(path)} is a file, not a Core ML package: a package is a folder named .mlpackage."
    )


def _neural_network_message(path: Path) -> str:
    return (
        f"{shown(path)} holds an older neural-network model. Convert it again with "
        "coremltools.convert(..., convert_to='mlprogram') to make an ML Program."
    )


def _root_model(package: Path) -> Path:
    """The specification file that the package's manifest names."""
    manifest_file = package / "Manifest.json"
    if not os.path.isfile(manifest_file):
        raise PackageError(f"{shown(package)} is not a Core ML package: it has no Manifest.json.")
    require_inside(manifest_file, package)
    try:
        manifest = json.loads(read_bounded(manifest_file, LARGEST_MANIFEST, "manifest"))
        relative = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    # JSON that is nested too deeply for Python's reader is a RecursionError.
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        if isinstance(error, PackageError):
            raise
        raise PackageError(f"{shown(manifest_file)} is damaged: it names no root model.") from error
    if not isinstance(relative, str) or "\0" in relative:
        raise PackageError(
            f"{shown(manifest_file)} is damaged: the path of its root model is {repr(relative)[:100]}."
        )
    data = os.path.realpath(package) + os.sep + "Data"
    model_file = Path(os.path.realpath(os.path.join(data, relative)))
    if not model_file.is_relative_to(data):
        raise PackageError(f"{shown(manifest_file)} names a model outside its package: {relative[:200]!r}.")
    if not os.path.isfile(model_file):
        raise PackageError(f"{shown(package)} is incomplete: its model file {relative[:200]!r} is missing.")
    return model_file


def _parse(model_file: Path, package: Path) -> Any:
    specification = proto.Model_pb2.Model()
    message = (
        f"The model in {shown(package)} cannot be read: {shown(model_file.name)} is damaged or encrypted. "
        "Export it again, without encryption."
    )
    content = read_bounded(model_file, LARGEST_MODEL, "specification of an ML Program")
    try:
        specification.ParseFromString(content)
    except DecodeError as error:
        raise PackageError(message) from error
    if specification.specificationVersion < 1 or specification.WhichOneof("Type") is None:
        raise PackageError(message)
    return specification
