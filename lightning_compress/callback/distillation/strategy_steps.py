"""Contexts in which a Trainer's strategy runs its training steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from lightning.pytorch.strategies import Strategy

Context = Callable[[], AbstractContextManager[None]]


class StepContexts:
    """Stands in the place of a strategy's `training_step`, and runs it in contexts.

    Lightning has hooks before and after a batch, and none that see trial steps of its finders of batch sizes and
    learning rates, which run without the Trainer's callbacks.
    """

    def __init__(self, training_step: Callable[..., Any]) -> None:
        self.contexts: list[Context] = []
        self._training_step = training_step

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Run a training step."""
        with ExitStack() as stack:
            for context in self.contexts:
                stack.enter_context(context())
            return self._training_step(*arguments, **keywords)


def enter(strategy: Strategy, context: Context) -> None:
    """Run a strategy's training steps in a context, within those that are there."""
    if not isinstance(strategy.training_step, StepContexts):
        strategy.training_step = StepContexts(strategy.training_step)  # type: ignore[method-assign]
    steps: Any = strategy.training_step
    steps.contexts.append(context)


def leave(strategy: Strategy, context: Context) -> None:
    """Run a strategy's training steps without a context; the last one leaves it as it was."""
    steps: Any = strategy.training_step
    if not isinstance(steps, StepContexts) or context not in steps.contexts:
        return
    steps.contexts.remove(context)
    if not steps.contexts:
        del strategy.training_step
