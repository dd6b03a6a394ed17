"""The torch function of every MIL op, grouped as coremltools groups the ops. Importing it fills the table."""

from __future__ import annotations

from lightning_compress.runtime.ops import (
    activation,
    constexpr,
    convolution,
    elementwise,
    gathering,
    linear,
    normalization,
    pooling,
    quantization,
    reduction,
    resizing,
    tensor,
    transformation,
)

__all__ = [
    "activation",
    "constexpr",
    "convolution",
    "elementwise",
    "gathering",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "reduction",
    "resizing",
    "tensor",
    "transformation",
]
