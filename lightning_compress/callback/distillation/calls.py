"""The calls of a module within a training step, and what a teacher makes of the same inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
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


class TaughtCalls:
    """Listens to those calls of a module that are differentiated, and asks the teacher at once, under one autocast.

    Nothing is computed of both here: a call may stand in a part that is computed again in the backward pass, where it
    must leave the same tensors as now.

    Args:
        callees: The module, or what it is compiled into.
        inner: Listens to modules within it.
        teacher: Is called with the same inputs.

    Attributes:
        calls: Since it began to listen.
        without_gradient: How many calls were not differentiated.
    """

    def __init__(self, callees: Sequence[nn.Module], inner: InnerOutputs, teacher: Teacher) -> None:
        self.calls: list[Call] = []
        self.without_gradient = 0
        self._callees = callees
        self._inner = inner
        self._teacher = teacher
        self._inputs: list[tuple[Any, Any] | None] = []
        # As in `InnerOutputs`.
        self._before, self._after = self._hooks()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen for one training step; before and after it nothing of this is on the module."""
        self.calls, self._inputs, self.without_gradient = [], [], 0
        handles: list[RemovableHandle] = []
        try:
            for callee in self._callees:
                # Before what others have put there to change inputs, of which the teacher has a copy, or outputs.
                handles.append(callee.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True))
                handles.append(callee.register_forward_hook(self._after, prepend=True))
            handles += self._inner.listen()
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.calls = []
            self._inner.forget()

    def _hooks(self) -> tuple[Any, Any]:
        def before(module: nn.Module, arguments: Any, keywords: Any) -> None:
            self._inner.forget()
            # A module may change its inputs in place.
            self._inputs.append(kept((arguments, keywords)) if torch.is_grad_enabled() else None)

        def after(module: nn.Module, arguments: Any, outputs: Any) -> None:
            inputs = self._inputs.pop()
            if inputs is None:
                self.without_gradient += 1
                return
            theirs, inner = self._teacher(*inputs)
            self.calls.append(Call(kept(outputs), theirs, self._inner.found, inner))

        return uncompiled(before), uncompiled(after)
