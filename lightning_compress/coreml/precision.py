"""Which operations of a program compute in float16, and which in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import coremltools as ct

Operation = Any
"""An operation of coremltools' intermediate language, MIL."""

_WEIGHTED = frozenset(
    {
        "conv",
        "conv_transpose",
        "linear",
        "matmul",
        "einsum",
        "scaled_dot_product_attention",
        "gru",
        "lstm",
        "rnn",
    }
)
_PASSING_ON = frozenset(
    {
        "cast",
        "concat",
        "dequantize",
        "expand_dims",
        "identity",
        "quantize",
        "reshape",
        "reverse",
        "slice_by_index",
        "slice_by_size",
        "split",
        "squeeze",
        "stack",
        "transpose",
    }
)
"""Operations that move values, or hold them in another type, and compute none."""


def compute_precision(name: str, *, exact_decoding: bool = False) -> Any:
    """What `coremltools.convert` takes as its `compute_precision`.

    In float16 two neighbouring numbers below 1 are 1/2048 apart: a box is off by a pixel in a photograph of 2,000,
    anchors are off before the network has said a word, and confidences near 1 tie, so that suppression keeps another
    box. On the digits detector at 300 pixels that costs up to 0.003 mAP. A detector's decoding, which is everything
    computed after its last layer with weights, is a few thousand numbers, on their way to a suppression that takes
    float32 anyway.

    Args:
        name: "float16" or "float32".
        exact_decoding: Whether what follows the last layer with weights stays in float32.
    """
    if name == "float16" and exact_decoding:
        return ct.transform.FP16ComputePrecision(op_selector=_BeforeDecoding())
    return getattr(ct.precision, name.upper())


class _BeforeDecoding:
    """Selects the operations up to the last layers with weights, and those that pass on what comes out of them."""

    def __init__(self) -> None:
        self._selected: Mapping[str, bool] | None = None

    def __call__(self, operation: Operation) -> bool:
        if self._selected is None:
            self._selected = _before_decoding(_outermost(operation.enclosing_block))
        # What is not there is a cast that the conversion has put in since, or in the branch of a condition.
        return self._selected.get(operation.name, False)


def _outermost(block: Any) -> Any:
    while block.outer_op is not None:
        block = block.outer_op.enclosing_block
    return block


def _before_decoding(block: Any) -> Mapping[str, bool]:
    operations = [operation for operation in block.operations if operation.op_type != "const"]
    selected: dict[str, bool] = {}
    for operation in reversed(operations):
        selected[operation.name] = operation.op_type in _WEIGHTED or any(
            selected.get(consumer.name, False)
            for output in operation.outputs
            for consumer in output.child_ops
        )
    for operation in operations:
        if operation.op_type in _PASSING_ON and not selected[operation.name]:
            producers = _producers(operation)
            selected[operation.name] = bool(producers) and all(
                selected[producer.name] for producer in producers
            )
    return selected


def _producers(operation: Operation) -> list[Operation]:
    values = [
        value
        for given in operation.inputs.values()
        for value in (given if isinstance(given, (list, tuple)) else [given])
    ]
    return [value.op for value in values if value is not None and value.op is not None and value.val is None]
