"""A pass that lets operations share the small constants that say how they work.

coremltools gives each convolution constants of its own for its strides, padding and groups, each with a name and a
type: two thirds of the operations of a small network's program, which is a quarter of its package once its weights take
one bit each. Here all numbers that have one type, shape and value are one. coremltools 9's
`common::const_deduplication` does the same for arrays of a hundred elements and more by default. It is made for smaller
ones too (`const_threshold`), and never shares words and truth values, which its tests insist on: nor are they here.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import ListVar, types
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass

from lightning_compress.coreml.programs import blocks_of, consumers

_MOST_ELEMENTS = 100
"""From here on coremltools looks."""


class ShareConstants(AbstractGraphPass):  # type: ignore[misc]
    """Make one constant of all that are alike in a block.

    Shared are whole numbers and single fractions. Arrays of fractions may be weights, each of which has a name; what
    compressed constants are made of is written into them; and an output keeps its own.
    """

    def apply(self, prog: Any) -> None:
        """Change a program in place."""
        for block in blocks_of(prog):
            first: dict[Hashable, Any] = {}
            for operation in list(block.operations):
                if operation.op_type != "const" or operation.outputs[0] in block.outputs:
                    continue
                constant = operation.outputs[0]
                value = _value(constant)
                if value is None:
                    continue
                shared = first.setdefault(value, constant)
                if shared is not constant:
                    block.replace_uses_of_var_after_op(
                        anchor_op=operation, old_var=constant, new_var=shared, no_check_var_types=True
                    )
                    block.remove_ops([operation])


def _value(constant: Any) -> Hashable | None:
    """Type, shape and value of a constant that may be shared, or None."""
    if isinstance(constant, ListVar) or any(
        consumer.op_type.startswith("constexpr_") for consumer in consumers(constant)
    ):
        return None
    array = np.asarray(constant.val)
    kind = array.dtype.kind
    if kind not in "iuf" or array.size >= (2 if kind == "f" else _MOST_ELEMENTS):
        return None
    return types.builtin_to_string(constant.dtype), array.shape, array.tobytes()
