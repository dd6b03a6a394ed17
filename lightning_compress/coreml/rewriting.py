"""From a changed program back to a model, and coremltools' own compression of packages by that way."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import coremltools as ct
from coremltools.converters.mil.backend.mil import load as backend
from coremltools.converters.mil.mil.passes.graph_pass import PassOption
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.errors import ConfigurationError, PackageError, TargetError
from lightning_compress.package.opening import Package, open_package
from lightning_compress.package.targets import Capability, resolve_target, target_name
from lightning_compress.package.versions import read_one_version

LOWEST_SPECIFICATION = 7
"""The first specification version (iOS16) with compressed weights."""

WEIGHT_THRESHOLD = 2048
"""Weights with no more elements than this stay dense, as in coremltools."""

_QUANTIZED = {"int8": Capability.INT8_WEIGHTS, "int4": Capability.INT4_WEIGHTS}


def model_of_program(package: Package, program: Any) -> ct.models.MLModel:
    """A changed program as a model, with the description that its package had.

    Written by coremltools' backend alone. Its optimization passes have run at conversion; run again, as
    coremltools' own compression of packages does, they cost seconds, may change operations that were
    verified, and have failed for classifiers (coremltools #1906).

    Raises:
        PackageError: If it has several functions: what they share would be written once for each.
    """
    if len(program.functions) > 1:
        raise PackageError(
            f"{str(package.path)!r} holds the functions {', '.join(map(repr, program.functions))}; compress the "
            "packages that it was made of, and put them together again"
        )
    with tempfile.TemporaryDirectory() as folder:
        specification = backend.load(
            program,
            folder,
            specification_version=max(package.specification_version, LOWEST_SPECIFICATION),
            model_description=package.specification.description,
        )
        if package.pipeline is not None:
            specification = _in_pipeline(package, specification)
        return ct.models.MLModel(specification, weights_dir=folder, skip_model_load=True)


def _in_pipeline(package: Package, specification: Any) -> Any:
    """A copy of the package's pipeline with another program in the place of its own."""
    pipeline = ct.proto.Model_pb2.Model()
    pipeline.CopyFrom(package.pipeline)
    for model in pipeline.pipeline.models:
        if model.WhichOneof("Type") == "mlProgram":
            model.CopyFrom(specification)
        else:
            model.specificationVersion = specification.specificationVersion
    pipeline.specificationVersion = specification.specificationVersion
    return pipeline


def require_target(package: Package, capability: Capability) -> None:
    """Raise if a package's target cannot carry a compression.

    Raises:
        TargetError: Naming the target that the package has to be exported for.
    """
    lowest = resolve_target(None, [capability])
    has = max(package.specification_version, LOWEST_SPECIFICATION)
    if lowest.value > has:
        raise TargetError(
            f"a package for {target_name(has)} cannot carry {capability.value}; "
            f"export it with minimum_deployment_target={lowest.name!r} first"
        )


def prune_package(
    package: str | Path | ct.models.MLModel, sparsity: float, *, weight_threshold: int = WEIGHT_THRESHOLD
) -> ct.models.MLModel:
    """Set the smallest weights of each tensor of a package to zero and store the others alone.

    Args:
        package: Path of an `.mlpackage` folder, or a converted model.
        sparsity: Share of weights to set to zero, in [0, 1).
        weight_threshold: Weights with no more elements stay dense.

    Raises:
        ConfigurationError: If `sparsity` lies outside.
        PackageError: If the package cannot be read.
    """
    if not 0 <= sparsity < 1:
        raise ConfigurationError(f"sparsity={sparsity!r} is not in [0, 1)")
    configuration = ct.optimize.coreml.OpMagnitudePrunerConfig(
        target_sparsity=sparsity, weight_threshold=weight_threshold
    )
    return read_one_version(package, lambda: _passed(open_package(package), "prune_weights", configuration))


def quantize_package(
    package: str | Path | ct.models.MLModel, dtype: str = "int8", *, weight_threshold: int = WEIGHT_THRESHOLD
) -> ct.models.MLModel:
    """Quantize the weights of a package, symmetrically, with a scale for each channel.

    Args:
        package: Path of an `.mlpackage` folder, or a converted model.
        dtype: "int8", or "int4" for packages for iOS18 and later.
        weight_threshold: Weights with no more elements stay dense.

    Raises:
        ConfigurationError: If `dtype` is another.
        TargetError: If the package's target cannot carry it.
        PackageError: If the package cannot be read.
    """
    if dtype not in _QUANTIZED:
        raise ConfigurationError(f"dtype={dtype!r} is unknown; valid are {', '.join(_QUANTIZED)}")
    configuration = ct.optimize.coreml.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype=dtype, weight_threshold=weight_threshold
    )

    def quantize() -> ct.models.MLModel:
        opened = open_package(package)
        require_target(opened, _QUANTIZED[dtype])
        return _passed(opened, "linear_quantize_weights", configuration)

    return read_one_version(package, quantize)


def _passed(package: Package, name: str, configuration: Any) -> ct.models.MLModel:
    compression = PASS_REGISTRY[f"compression::{name}"]
    compression.set_options(
        [
            PassOption("config", ct.optimize.coreml.OptimizationConfig(global_config=configuration)),
            PassOption("joint_compression", False),
        ]
    )
    with quiet_conversion():
        program = package.program(LOWEST_SPECIFICATION)
        compression.apply(program)
        return model_of_program(package, program)
