"""Export, and let the package take its place only if it computes what the module does."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from torch import nn

from lightning_compress.coreml.detector import COORDINATES
from lightning_compress.coreml.export import CoreMLExport, ExportedPackage
from lightning_compress.coreml.trace import ExampleInputs, as_tuple, by_position, convertible_copy
from lightning_compress.coreml.verification.comparison import Verification, compare, tolerance_for
from lightning_compress.coreml.verification.running import (
    disturbed_outputs,
    output_names,
    program_of,
    reference_outputs,
    run_in_torch,
)
from lightning_compress.coreml.verification.samples import random_samples
from lightning_compress.package.targets import Capability


def export_verified(
    export: CoreMLExport,
    module: nn.Module,
    example_inputs: ExampleInputs,
    capabilities: Collection[Capability] = (),
) -> ExportedPackage:
    """Export a finalized module as `CoreMLExport.run` does, and verify the package if the export asks for it.

    Args:
        export: What the package shall be.
        module: A finalized module; it is not changed.
        example_inputs: What to call it with.
        capabilities: What the compression needs of the package.

    Raises:
        VerificationError: If the package does not compute what the module does; an earlier package is then
            still in place.
        CompressionError: As `CoreMLExport.run` raises it.
    """

    def check(package: Path) -> None:
        verify_export(export, package, module, example_inputs, capabilities).require_passed()

    return export.run(module, example_inputs, capabilities, check if export.verify else None)


_PIXELS = 5
"""Half precision moves the boxes of a hardly trained detector by more than a pixel on images that are no photographs; a
wrong program moves them far. On real images `lightning-compress verify` asks for one pixel."""


def verify_export(
    export: CoreMLExport,
    package: Path,
    module: nn.Module,
    example_inputs: ExampleInputs,
    capabilities: Collection[Capability] = (),
) -> Verification:
    """Compare a package with the module that it was exported from, on samples that need no data.

    The package is run as it is typed, which is float16 by default, on the CPU.

    Args:
        export: How the package was made.
        package: Path of the `.mlpackage` folder.
        module: The finalized module.
        example_inputs: What to call it with.
        capabilities: What the compression needs of the package; see `tolerance_for`.
    """
    inputs = as_tuple(example_inputs)
    samples = random_samples(example_inputs, export.image)
    reference = convertible_copy(by_position(export.wrapped(module), example_inputs))
    program = program_of(package)
    size = (inputs[0].shape[-2], inputs[0].shape[-1]) if export.image is not None else None
    names = output_names(program)
    tolerance = tolerance_for(
        export, size, quantized_activations=Capability.INT8_ACTIVATIONS in capabilities, pixels=_PIXELS
    )
    differences = compare(
        reference_outputs(reference, samples.module, names),
        run_in_torch(program, samples.package),
        tolerance,
        pixels={COORDINATES: 1 / max(size)} if export.nms is not None and size is not None else None,
        disturbed=disturbed_outputs(reference, samples.module, names, tolerance),
    )
    return Verification(str(package.name), "torch, as typed", len(samples.module), differences)
