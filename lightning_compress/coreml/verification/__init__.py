"""Does a package compute what the module does that it was made of?

Example:
    >>> from lightning_compress.coreml.verification import export_verified
    >>> export_verified(CoreMLExport("net.mlpackage"), network, images)  # doctest: +SKIP
"""

from __future__ import annotations

from lightning_compress.coreml.verification.comparison import (
    OutputDifference,
    Verification,
    compare,
    tolerance_for,
)
from lightning_compress.coreml.verification.exporting import export_verified, verify_export
from lightning_compress.coreml.verification.rendering import verification_table
from lightning_compress.coreml.verification.running import (
    coreml_is_available,
    reference_outputs,
    run_in_coreml,
    run_in_torch,
)
from lightning_compress.coreml.verification.samples import Samples, random_samples

__all__ = [
    "OutputDifference",
    "Samples",
    "Verification",
    "compare",
    "coreml_is_available",
    "export_verified",
    "random_samples",
    "reference_outputs",
    "run_in_coreml",
    "run_in_torch",
    "tolerance_for",
    "verification_table",
    "verify_export",
]
