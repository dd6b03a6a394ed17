"""A pass that keeps the names of weights that coremltools fuses with the batch norms behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

from lightning_compress.coreml.programs import blocks_of, consumers, remove_unused, rename

FUSION = "common::fuse_conv_batchnorm"
"""coremltools' pass, which calls a fused weight `const_0`, `const_1` and so on."""

_CONVOLUTIONS = ("conv", "conv_transpose")


class FuseBatchNorm(AbstractGraphPass):  # type: ignore[misc]
    """Do what coremltools' pass does, and let the weights keep their names.

    coremltools 9 loses them: `tests/coreml/test_fused_names.py` tells when it does no more.
    """

    def apply(self, prog: Any) -> None:
        """Change a program in place."""
        # The fused convolution gives its output the name that the batch norm's had.
        before = {
            following.outputs[0].name: operation.weight
            for operation in _convolutions(prog)
            for following in consumers(operation.outputs[0])
            if following.op_type == "batch_norm" and operation.weight.op is not None
        }
        PASS_REGISTRY[FUSION](prog)
        given: Counter[str] = Counter()
        for operation in _convolutions(prog):
            weight = before.get(operation.outputs[0].name)
            if weight is None or weight is operation.weight:
                continue
            given[weight.name] += 1
            # A weight that two batch norms follow has become two; what another layer reads keeps the plain name.
            times = given[weight.name] + bool(weight.child_ops)
            rename(operation.weight, weight.name if times == 1 else f"{weight.name}_{times}")
            # Or else coremltools would tell the two apart by a number.
            remove_unused(weight)


def _convolutions(program: Any) -> Iterator[Any]:
    for block in blocks_of(program):
        for operation in block.operations:
            if operation.op_type in _CONVOLUTIONS:
                yield operation
