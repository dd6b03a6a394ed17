"""A package against the module that it was made of, on samples that need no data."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lightning_compress.coreml.detector import COORDINATES
from lightning_compress.coreml.image import ImageInput
from lightning_compress.coreml.structure import ExampleInputs, by_position
from lightning_compress.coreml.tolerance import Tolerance
from lightning_compress.coreml.trace import convertible_copy
from lightning_compress.coreml.verification.comparison import Verification, compare
from lightning_compress.coreml.verification.running import (
    effect_of_rounding,
    output_names,
    program_of,
    reference_outputs,
    run_in_torch,
)
from lightning_compress.coreml.verification.samples import random_samples


def verify_package(
    package: Path,
    module: nn.Module,
    example_inputs: ExampleInputs,
    tolerance: Tolerance,
    *,
    finalized: nn.Module | None = None,
    image: ImageInput | None = None,
    pixel: float | None = None,
) -> Verification:
    """Run a package and its module on the same samples and compare what they compute.

    The package is run as it is typed, which is float16 by default, on the CPU.

    Args:
        package: Path of the `.mlpackage` folder.
        module: What the package is compared with: what was converted, or what was trained.
        example_inputs: What to call it with.
        tolerance: How far outputs may be apart.
        finalized: What was converted, if that is another. What rounding does is found out on it, as a module in
            training would be rounded to other palettes and integers; how far it is from `module` excuses nothing.
        image: How the package presents its first input as an image.
        pixel: What one pixel is in the unit of a detector's boxes; None where there are none.

    Raises:
        VerificationError: If outputs are missing or of other sizes.
        PackageError: If the package cannot be loaded.
    """
    samples = random_samples(example_inputs, image)
    reference = by_position(convertible_copy(module), example_inputs)
    program = program_of(package)
    names = output_names(program)
    expected = reference_outputs(reference, samples.module, names)
    converted, exact = reference, expected
    if finalized is not None:
        converted = by_position(convertible_copy(finalized), example_inputs)
        exact = reference_outputs(converted, samples.module, names)
    differences = compare(
        expected,
        run_in_torch(program, samples.package),
        tolerance,
        pixels=None if pixel is None else {COORDINATES: pixel},
        rounding=effect_of_rounding(converted, samples.module, exact, tolerance),
    )
    return Verification(str(package.name), "torch, as typed", len(samples.module), differences)
