"""The table of MIL ops: which torch function computes each, and what else the runtime has to know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Attributes = Mapping[str, Any]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Operand:
    """A tensor handed to a call, as the program types it.

    Attributes:
        shape: sizes; None where the program leaves a size open.
        batched: whether samples are stacked along axis 0 when the program runs for many of them.
    """

    shape: tuple[int | None, ...]
    batched: bool


@dataclass(frozen=True)
class Call:
    """What a batching rule looks at: the operands by parameter, the attributes, the shapes of the results."""

    operands: Mapping[str, tuple[Operand, ...]]
    attributes: Attributes
    results: tuple[tuple[int | None, ...], ...]


BatchRule = Callable[[Call], bool]


@dataclass(frozen=True)
class OpDefinition:
    """One MIL op.

    Attributes:
        function: computes the op; takes MIL's parameter names as keywords.
        tensors: parameters that are always handed over as tensors. Other parameters come as Python values when
            the program fixes them, and as tensors when it computes them.
        samplewise: whether a call treats the entries of axis 0 one by one, so that a program converted for one
            sample may be given many at once.
        unfixed: the attributes to use instead when it is.
        exact: results are values that were handed in, so there is nothing to round.
        traceable: `torch.vmap` can follow the function; nothing in it depends on the values of tensors.
        new_memory: the result has memory of its own, and is never a view of an operand or of a constant: what comes
            after may write over it.
    """

    function: Callable[..., Any]
    tensors: frozenset[str]
    samplewise: BatchRule
    unfixed: Callable[[dict[str, Any]], dict[str, Any]] | None
    exact: bool
    traceable: bool
    new_memory: bool


def _never(call: Call) -> bool:
    return False


_TABLE: dict[str, OpDefinition] = {}


def register(
    *op_types: str,
    tensors: str,
    samplewise: BatchRule = _never,
    unfixed: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    exact: bool = False,
    traceable: bool = True,
    new_memory: bool = False,
) -> Callable[[Function], Function]:
    """Enter a function in the table under one or several MIL op types.

    Args:
        op_types: names of MIL ops, such as "conv".
        tensors: parameters that take tensors, separated by spaces.
        samplewise: see `OpDefinition`.
        unfixed: see `OpDefinition`.
        exact: see `OpDefinition`.
        traceable: see `OpDefinition`.
        new_memory: see `OpDefinition`.
    """

    def enter(function: Function) -> Function:
        for op_type in op_types:
            if op_type in _TABLE:
                raise ValueError(f"The op {op_type!r} is registered twice.")
            _TABLE[op_type] = OpDefinition(
                function, frozenset(tensors.split()), samplewise, unfixed, exact, traceable, new_memory
            )
        return function

    return enter


def find(op_type: str) -> OpDefinition | None:
    """The definition of a MIL op, or None when the runtime has none."""
    return _TABLE.get(op_type)


def supported_ops() -> tuple[str, ...]:
    """The MIL op types that the runtime computes, in alphabetical order."""
    return tuple(sorted(_TABLE))
