"""Run lowered steps, in one of three arithmetics."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from lightning_compress.errors import PackageError
from lightning_compress.package.explaining import reason
from lightning_compress.runtime.loops import Iterations
from lightning_compress.runtime.program import Step

_OF_THE_MACHINE = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))
"""Errors that say nothing about a program."""


class Arithmetic(Enum):
    """How floating-point values are held and computed.

    FLOAT32: all in float32, whatever the program says.
    TYPED: each in the type that the program gives it.
    ROUNDED: as TYPED, for processors without fast float16 arithmetic: float16 values are held in float32 and each
        result is rounded to float16, which is what hardware with float16 storage and wider accumulators computes.
    """

    FLOAT32 = "float32"
    TYPED = "typed"
    ROUNDED = "rounded"

    def hold(self, constant: Tensor) -> Tensor:
        """A constant in the type that this arithmetic holds it in."""
        if self is Arithmetic.TYPED or not constant.is_floating_point():
            return constant
        return constant.to(torch.float32)


def execute(
    steps: Sequence[Step],
    values: list[Any],
    arithmetic: Arithmetic,
    *,
    overwrite: bool = False,
    iterations: Iterations | None = None,
) -> None:
    """Run the steps in order on `values`, a list by slot, which is filled in place.

    Args:
        steps: What to run.
        values: A value for each slot; those of constants and inputs are there.
        arithmetic: How to compute.
        overwrite: Let steps write over operands that nobody needs any more. See
            `may_overwrite` for when that is safe.
        iterations: Counts those of loops; None for the number that is allowed unless somebody asks for another.

    Raises:
        PackageError: Naming the operation that torch cannot compute with what it is given, or the loop without end.
    """
    iterations = iterations or Iterations()
    step = None
    try:
        for step in steps:
            _run(step, values, arithmetic, overwrite, iterations)
    except (PackageError, *_OF_THE_MACHINE):
        raise
    except Exception as error:
        assert step is not None
        raise PackageError(
            f"operation {step.name!r} of type {step.op_type!r} cannot be computed: {reason(error)}"
        ) from error


def _run(
    step: Step, values: list[Any], arithmetic: Arithmetic, overwrite: bool, iterations: Iterations
) -> None:
    operands = {
        parameter: [values[i] for i in slots] if isinstance(slots, tuple) else values[slots]
        for parameter, slots in step.operands
    }
    if step.blocks:
        outcome = _run_blocks(step, operands, values, arithmetic, iterations)
    else:
        function = (step.overwriting if overwrite else None) or step.function
        outcome = function(**operands, **step.attributes)
    results = outcome if isinstance(outcome, tuple) else (outcome,)
    for slot, result, type_ in zip(step.results, results, step.types, strict=True):
        if arithmetic is Arithmetic.FLOAT32 or step.exact:
            values[slot] = result
        elif arithmetic is Arithmetic.TYPED:
            values[slot] = _to_type(result, type_)
        else:
            values[slot] = _round(result, type_, overwrite and step.new_memory)
    for slot in step.frees:
        values[slot] = None


def _run_blocks(
    step: Step, operands: dict[str, Any], values: list[Any], arithmetic: Arithmetic, iterations: Iterations
) -> tuple[Any, ...]:
    """A condition, or a loop."""
    if step.op_type == "cond":
        block = step.blocks[0 if operands["pred"] else 1]
        execute(block.steps, values, arithmetic, iterations=iterations)
        return tuple(values[slot] for slot in block.outputs)
    test, body = step.blocks
    current, before = operands["loop_vars"], None
    while True:
        for slot, value in zip(test.inputs, current, strict=True):
            values[slot] = value
        execute(test.steps, values, arithmetic, iterations=iterations)
        if not values[test.outputs[0]]:
            return tuple(current)
        if before is not None:
            iterations.count(step, before, current)
        for slot, value in zip(body.inputs, current, strict=True):
            values[slot] = value
        execute(body.steps, values, arithmetic, iterations=iterations)
        before, current = current, [values[slot] for slot in body.outputs]


def _to_type(result: Any, type_: torch.dtype | None) -> Any:
    if type_ is None or not type_.is_floating_point or result.dtype is type_:
        return result
    return result.to(type_)


def _round(result: Any, type_: torch.dtype | None, overwrite: bool) -> Any:
    if type_ is not torch.float16:
        return result
    rounded = result.to(torch.float16)
    return result.copy_(rounded) if overwrite and result.dtype is torch.float32 else rounded.to(torch.float32)
