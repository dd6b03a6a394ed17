"""A Core ML package as a torch module, on any machine that torch runs on.

Example:
    >>> from lightning_compress import runtime
    >>> module = runtime.load("classifier.mlpackage")
    >>> probabilities = module(images)["probabilities"]
"""

from __future__ import annotations

from lightning_compress.runtime.loading import load
from lightning_compress.runtime.module import CoreMLProgram
from lightning_compress.runtime.pipeline import CoreMLPipeline
from lightning_compress.runtime.registry import supported_ops

__all__ = ["CoreMLPipeline", "CoreMLProgram", "load", "supported_ops"]
