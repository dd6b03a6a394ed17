"""Does a package compute what the module does that it was made of?"""

from __future__ import annotations

from lightning_compress.coreml.verification.checking import verify_package
from lightning_compress.coreml.verification.comparison import (
    OutputDifference,
    Verification,
    compare,
)
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
    "random_samples",
    "reference_outputs",
    "run_in_coreml",
    "run_in_torch",
    "verification_table",
    "verify_package",
]
