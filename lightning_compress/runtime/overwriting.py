"""Ops that write their result over an operand which nobody needs afterwards.

Memory that was just written is in the cache and needs no pages from the system: on a CPU this is a seventh of the time
of a ResNet50 on eight images. Only where no gradient is recorded: a backward pass may need what would be overwritten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_compress.runtime.program import Step
from lightning_compress.runtime.registry import find


def _relu(x: Tensor) -> Tensor:
    return torch.relu_(x)


def _relu6(x: Tensor) -> Tensor:
    return x.clamp_(0, 6)


def _clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x.clamp_(alpha, beta)


def _silu(x: Tensor) -> Tensor:
    return F.silu(x, inplace=True)


def _sigmoid(x: Tensor) -> Tensor:
    return x.sigmoid_()


class _Into:
    """A function of two tensors that writes its result over one of them, where that fits."""

    def __init__(self, op_type: str, parameter: str) -> None:
        self.op_type = op_type
        self.parameter = parameter

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        written, other = (x, y) if self.parameter == "x" else (y, x)
        if _fits(other, written):
            return _IN_PLACE[self.op_type](written, other)
        definition = find(self.op_type)
        assert definition is not None
        result: Tensor = definition.function(x=x, y=y)
        return result


_IN_PLACE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"add": Tensor.add_, "mul": Tensor.mul_}


def _fits(other: Tensor, written: Tensor) -> bool:
    """Whether the result of both has the size, type, place and order in memory of the operand that is written over.

    In another order later operations would add up, or compute whole vectors, in another order too, and differ in
    their last bits.
    """
    return (
        other.dtype is written.dtype
        and other.device == written.device
        and torch.broadcast_shapes(other.shape, written.shape) == written.shape  # type: ignore[no-untyped-call]
        and (other.stride() == written.stride() or (other.is_contiguous() and written.is_contiguous()))
    )


_OVERWRITING: dict[str, dict[str, Callable[..., Tensor]]] = {
    "relu": {"x": _relu},
    "relu6": {"x": _relu6},
    "clip": {"x": _clip},
    "silu": {"x": _silu},
    "sigmoid": {"x": _sigmoid},
    **{op_type: {"x": _Into(op_type, "x"), "y": _Into(op_type, "y")} for op_type in _IN_PLACE},
}
"""By op and by the operand written over."""


def may_overwrite() -> bool:
    """Whether nobody will ask for what is written over: no gradient is recorded, and no `torch.func` transform runs.

    Under `torch.vmap` an operand may be smaller than it looks. torch 2.14 has no public way to ask.
    """
    return not torch.is_grad_enabled() and torch._C._functorch.maybe_current_level() is None


def overwrite(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Mark the steps that may write over an operand.

    An operand qualifies if a step made it in memory of its own, and nothing but this step uses it: no other step, no
    nested block, no output, so no view of it exists either.

    Args:
        steps: In order, with the slots that each frees.
    """
    uses = Counter(slot for step in steps for slot in step.used())
    own = {slot for step in steps if step.new_memory for slot in step.results}
    marked = []
    for step in steps:
        written = [
            function
            for parameter, function in _OVERWRITING.get(step.op_type, {}).items()
            for name, slot in step.operands
            if name == parameter and slot in own and slot in step.frees and uses[slot] == 1
        ]
        marked.append(replace(step, overwriting=written[0] if written else None))
    return tuple(marked)
