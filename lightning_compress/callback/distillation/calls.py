"""The calls of a module within a training step, and what a teacher makes of the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.utils.hooks import RemovableHandle

from lightning_compress.callback.distillation.inner import InnerOutputs, uncompiled
from lightning_compress.callback.distillation.outputs import kept
from lightning_compress.callback.distillation.teacher import Teacher


@dataclass(frozen=True)
class Call:
    """What student and teacher have computed from the same inputs.

    Attributes:
        student: What the student has returned.
        teacher: What the teacher has returned.
        student_inner: What the student's inner modules have returned, by name, in the order of their calls.
        teacher_inner: The same of the teacher's.
    """

    student: Any
    teacher: Any
    student_inner: dict[str, list[Any]]
    teacher_inner: dict[str, list[Any]]


def callable_parts(module: nn.Module) -> list[str]:
    """What a training step may call of a module: itself, or the one part that holds all its parameters, and so on.

    A detector that normalizes images and decodes boxes around its network is trained by its network's outputs.

    Returns:
        Names within the module, from the outside in; the first is "", the module itself.
    """
    names, part = [""], module
    while not isinstance(part, OptimizedModule):
        own = set(part.parameters())
        whole = [name for name, child in part.named_children() if own and set(child.parameters()) == own]
        if len(whole) != 1 or whole[0] == "parametrizations":
            break
        names.append(f"{names[-1]}.{whole[0]}".lstrip("."))
        part = part.get_submodule(whole[0])
    return names


class TaughtCalls:
    """Listens to those calls of a module that are differentiated, and asks the teacher at once, under one autocast.

    Nothing is computed of both here: a call may stand in a part that is computed again in the backward pass, where it
    must leave the same tensors as now.

    Args:
        callees: By name of a part of the module, what is called of it: the part, or what it is compiled into. Of calls
            within each other the outermost counts.
        inner: Listens to modules within it.
        teacher: Is called with the same inputs.

    Attributes:
        calls: Since it began to listen.
        without_gradient: How many calls were not differentiated.
    """

    def __init__(
        self, callees: Mapping[str, Sequence[nn.Module]], inner: InnerOutputs, teacher: Teacher
    ) -> None:
        self.calls: list[Call] = []
        self.without_gradient = 0
        self._callees = callees
        self._inner = inner
        self._teacher = teacher
        # Of the calls that have begun and not ended, the innermost last.
        self._begun: list[_Begun] = []
        # As in `InnerOutputs`.
        self._hooks = {name: self._hooks_of(name) for name in callees}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen for one training step; before and after it nothing of this is on the module."""
        self.calls, self._begun, self.without_gradient = [], [], 0
        handles: list[RemovableHandle] = []
        try:
            for name, (before, after) in self._hooks.items():
                for callee in self._callees[name]:
                    # Before what others have put there to change inputs, of which the teacher has a copy, or outputs.
                    handles.append(callee.register_forward_pre_hook(before, with_kwargs=True, prepend=True))
                    handles.append(callee.register_forward_hook(after, prepend=True))
            handles += self._inner.listen()
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.calls = []
            self._inner.forget()

    def _hooks_of(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def before(module: nn.Module, arguments: Any, keywords: Any) -> None:
            if self._begun:
                self._begun.append(_Begun(is_within=True))
                return
            self._inner.forget()
            # A module may change its inputs in place.
            inputs = kept((arguments, keywords)) if torch.is_grad_enabled() else None
            self._begun.append(_Begun(inputs))

        def after(module: nn.Module, arguments: Any, outputs: Any) -> None:
            begun = self._begun.pop()
            if begun.is_within:
                return
            if begun.inputs is None:
                self.without_gradient += 1
                return
            theirs, inner = self._teacher(name, *begun.inputs)
            self.calls.append(Call(kept(outputs), theirs, self._inner.found, inner))

        return uncompiled(before), uncompiled(after)


@dataclass(frozen=True)
class _Begun:
    """A call that has begun.

    Attributes:
        inputs: By position and by name; None if it is not differentiated.
        is_within: Whether it stands within another.
    """

    inputs: tuple[Any, Any] | None = None
    is_within: bool = False
