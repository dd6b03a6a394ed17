"""The torch function of every MIL op, grouped as coremltools groups the ops. Importing it fills the table."""

from __future__ import annotations

from lightning_compress.runtime.ops import (
    activation,
    attention,
    constexpr,
    control,
    convolution,
    detection,
    elementwise,
    gathering,
    linear,
    normalization,
    pooling,
    quantization,
    random,
    recurrent,
    reduction,
    resizing,
    sampling,
    tensor,
    transformation,
)

__all__ = [
    "activation",
    "attention",
    "constexpr",
    "control",
    "convolution",
    "detection",
    "elementwise",
    "gathering",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "random",
    "recurrent",
    "reduction",
    "resizing",
    "sampling",
    "tensor",
    "transformation",
]
