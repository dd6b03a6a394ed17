"""What passes over a coremltools program share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import coremltools as ct
from coremltools.converters.mil.mil import types


def blocks_of(program: Any) -> Iterator[Any]:
    """Every block of a program: its functions, and those nested in their operations."""
    for function in program.functions.values():
        yield from _nested(function)


def _nested(block: Any) -> Iterator[Any]:
    yield block
    for operation in list(block.operations):
        for part in operation.blocks:
            yield from _nested(part)


@contextmanager
def inside(block: Any) -> Iterator[None]:
    """Let the builder add to a block, for which every block around it has to be entered."""
    blocks = [block]
    while blocks[-1].outer_op is not None:
        blocks.append(blocks[-1].outer_op.enclosing_block)
    entered = []
    try:
        for part in reversed(blocks):
            part.__enter__()
            entered.append(part)
        yield
    finally:
        for part in reversed(entered):
            part.__exit__(None, None, None)


def opset_of(program: Any) -> ct.target:
    """The operation set that a program is made of."""
    return next(iter(program.functions.values())).opset_version


def is_early_recurrent(variable: Any, opset: ct.target) -> bool:
    """Whether a recurrent layer takes a variable, of an operation set in which its weights must be dense."""
    return opset < ct.target.iOS18 and any(
        operation.op_type in ("lstm", "gru", "rnn") for operation in consumers(variable)
    )


def consumers(variable: Any) -> list[Any]:
    """The operations that take a variable, each once."""
    return list({id(operation): operation for operation in variable.child_ops}.values())


def replace_variable(block: Any, anchor: Any, old: Any, new: Any) -> None:
    """Let whatever takes `old` take `new`, compressed constants included, which coremltools else refuses."""
    block.replace_uses_of_var_after_op(anchor_op=anchor, old_var=old, new_var=new, force_replace=True)


def remove_unused(constant: Any) -> None:
    """Take the operation of a variable that nothing takes any more, or did before, out of its block."""
    if constant.op.enclosing_block is not None and not constant.child_ops:
        constant.op.enclosing_block.remove_ops([constant.op])


def numpy_type(variable: Any) -> Any:
    """The numpy type of a variable's elements."""
    return types.nptype_from_builtin(variable.dtype)


def rename(variable: Any, name: str) -> None:
    """Give a constant another name, and its operation with it."""
    variable.name = name
    variable.op.name = name
