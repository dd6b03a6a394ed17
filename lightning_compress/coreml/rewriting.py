"""From a changed program back to a model."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from typing import Any

import coremltools as ct
from coremltools.converters.mil.backend.mil import load as backend
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

from lightning_compress.coreml.programs import opset_of
from lightning_compress.coreml.shared_constants import ShareConstants
from lightning_compress.coreml.temporary_packages import removed_with
from lightning_compress.errors import TargetError
from lightning_compress.package.opening import Package
from lightning_compress.package.targets import Capability, lowest_target, resolve_target, target_name

LOWEST_SPECIFICATION = 7
"""The first specification version (iOS16) with compressed weights."""

WEIGHT_THRESHOLD = 2048
"""Weights with no more elements than this stay dense, as in coremltools."""


def model_of_program(package: Package, program: Any) -> ct.models.MLModel:
    """A changed program as a model, with the description that its package had.

    Written by coremltools' backend, once small constants are shared. coremltools' passes have run at conversion;
    run again, as coremltools' own compression of packages does, they cost seconds, may change operations that were
    verified, and have failed for classifiers (coremltools #1906).
    """
    ShareConstants().apply(program)
    if len(program.functions) > 1:
        # Weights that functions share are stored once; coremltools 9 knows them by a mark that reading loses.
        PASS_REGISTRY["common::const_deduplication"]._deduplicate_const_across_functions(program)
    description = package.specification.description
    program.default_function_name = description.defaultFunctionName or program.default_function_name
    with tempfile.TemporaryDirectory() as folder:
        specification = backend.load(
            program,
            folder,
            specification_version=int(opset_of(program).value),
            model_description=description,
        )
        if package.pipeline is not None:
            specification = _in_pipeline(package, specification)
        return removed_with(ct.models.MLModel(specification, weights_dir=folder, skip_model_load=True))


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


def raised_to(package: Package, capabilities: Collection[Capability], requested: str | None) -> int:
    """The specification version that a package has to be of to hold what is asked of it.

    Args:
        package: The package.
        capabilities: What it shall hold.
        requested: A deployment target to raise it to, or None to leave it at its own.

    Raises:
        TargetError: If the target cannot carry one of `capabilities`, or is lower than the package's.
    """
    has = max(package.specification_version, LOWEST_SPECIFICATION)
    lowest = lowest_target(capabilities)
    if requested is not None:
        version = int(resolve_target(requested, capabilities).value)
        if version < package.specification_version:
            raise TargetError(
                f"minimum_deployment_target={requested!r} is lower than what the package is for, "
                f"{target_name(package.specification_version)}; a package can be raised and not lowered"
            )
        return version
    if lowest.value > has:
        missing = sorted(c.value for c in capabilities if lowest_target([c]).value > has)
        raise TargetError(
            f"a package for {target_name(has)} cannot carry {', '.join(missing)}; "
            f"raise it with minimum_deployment_target={lowest.name!r}, or export it for that"
        )
    return has
