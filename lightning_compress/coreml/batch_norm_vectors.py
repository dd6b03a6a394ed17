"""A pass that says the batch norms that are left with two vectors each in place of four.

Behind a palettized layer a batch norm stays, as palettes have no scale for each channel (`batch_norm_folding.py`).
What it computes, `gamma * (x - mean) / sqrt(variance + epsilon) + beta`, is a factor and a shift for each channel. They
stand in `gamma` and `beta`; a mean of zeros and a variance of ones are shared by all that have as many channels. At one
bit a weight the four vectors of a MobileNetV3 are a tenth of its package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass

from lightning_compress.coreml.batch_norm_folding import affine_of
from lightning_compress.coreml.programs import (
    blocks_of,
    inside,
    numpy_type,
    remove_unused,
    rename,
    replace_variable,
)


class ShareBatchNormVectors(AbstractGraphPass):  # type: ignore[misc]
    """Let the batch norms of each block share their means and variances, which are zeros and ones."""

    def apply(self, prog: Any) -> None:
        """Change a program in place."""
        for block in blocks_of(prog):
            shared: dict[tuple[int, Any], tuple[Any, Any]] = {}
            for operation in list(block.operations):
                if operation.op_type == "batch_norm":
                    with inside(block):
                        _rewrite(operation, block, shared)


def _rewrite(norm: Any, block: Any, shared: dict[tuple[int, Any], tuple[Any, Any]]) -> None:
    affine = affine_of(norm)
    if affine is None:
        return
    dtype = numpy_type(norm.mean)
    channels = len(affine.factors)
    if (channels, dtype) not in shared:
        # What comes first in the program comes before all that take it.
        shared[channels, dtype] = (
            Builder.const(val=np.zeros(channels, dtype), name=f"zeros_{channels}", before_op=norm),
            Builder.const(val=np.ones(channels, dtype), name=f"ones_{channels}", before_op=norm),
        )
    mean, variance = shared[channels, dtype]
    # The variance of ones has the same number added to it.
    factors = affine.factors * np.sqrt(1 + affine.epsilon)
    gamma, beta = (
        Builder.const(val=values.astype(dtype), name=f"{norm.name}_{part}", before_op=norm)
        for values, part in ((factors, "gamma"), (affine.shifts, "beta"))
    )
    output = Builder.batch_norm(
        x=norm.x,
        mean=mean,
        variance=variance,
        gamma=gamma,
        beta=beta,
        epsilon=norm.epsilon,
        name=norm.outputs[0].name,
        before_op=norm,
    )
    replace_variable(block, norm, norm.outputs[0], output)
    block.remove_ops([norm])
    for old, new in ((norm.mean, None), (norm.variance, None), (norm.gamma, gamma), (norm.beta, beta)):
        if old is not None:
            remove_unused(old)
            if new is not None:
                rename(new, old.name)
