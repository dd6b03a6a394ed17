"""The weights of a program that can be compressed after training."""

from __future__ import annotations

from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.optimize._utils import select_input_output_channel_axis

from lightning_compress.coreml.post_training.tensors import DenseWeight
from lightning_compress.coreml.programs import is_early_recurrent
from lightning_compress.finite import require_finite
from lightning_compress.package.weights import iterate_operations


def dense_constants(program: Any) -> list[Any]:
    """The floating-point constants of two or more dimensions that operations take, in their order, each once."""
    found: dict[Any, None] = {}
    for operation in iterate_operations(program):
        for value in operation.inputs.values():
            for variable in value if isinstance(value, (list, tuple)) else [value]:
                if variable is not None and variable.op is not None and variable.op.op_type == "const":
                    held = variable.op.outputs[0].val
                    # Core ML reads a compressed vector wrongly; coremltools leaves vectors out for that reason.
                    if isinstance(held, np.ndarray) and held.dtype.kind == "f" and held.ndim > 1:
                        # By identity: functions of one package have constants of the same names.
                        found[variable.op] = None
    return list(found)


def reason_to_leave(constant: Any, weight_threshold: int, opset: ct.target) -> str | None:
    """Why a constant stays dense in any form, or None."""
    size = constant.outputs[0].val.size
    if size <= weight_threshold:
        return f"no more than {weight_threshold:,} weights"
    if is_early_recurrent(constant.outputs[0], opset):
        return "recurrent layers take compressed weights from iOS18 on"
    return None


def dense_weight(constant: Any) -> DenseWeight:
    """A constant as a weight that can be compressed.

    Raises:
        WeightError: It holds NaN or infinity.
    """
    values = np.asarray(constant.outputs[0].val)
    require_finite(constant.name, torch.from_numpy(values), "it cannot be compressed")
    input_axis, output_axis = select_input_output_channel_axis(constant)
    return DenseWeight(values, 0 if output_axis is None else output_axis, input_axis)
