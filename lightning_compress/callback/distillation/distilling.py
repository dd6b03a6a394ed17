"""A distillation in a fit: adds the distance from the teacher to the loss of each training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule

from lightning_compress.callback.distillation import strategy_steps
from lightning_compress.callback.distillation.calls import TaughtCalls, callable_parts
from lightning_compress.callback.distillation.comparison import Comparison
from lightning_compress.callback.distillation.inner import InnerOutputs, losses_by_name
from lightning_compress.callback.distillation.options import Distillation
from lightning_compress.callback.distillation.teacher import Teacher
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.mechanism.schedule import FitLength

_ABSENT = object()


class Distilling:
    """What a fit with a distillation holds: the teacher, and where the weight of its term stands.

    Args:
        options: What was asked for.
        network: The module, before it is prepared, or prepared where the teacher is another one.

    Attributes:
        distance: That of the last training step, not differentiable, or None.

    Raises:
        ModuleNotFoundInModelError: Inner modules are not there, or not in the teacher.
    """

    def __init__(self, options: Distillation, network: nn.Module) -> None:
        self.distance: Tensor | None = None
        self._options = options
        source = network if options.teacher is None else options.teacher
        self._losses = losses_by_name(options.modules, network, source)
        self._parts = callable_parts(network)
        self._teacher = Teacher(source)
        self._teacher.watch(self._losses)
        self._comparison = Comparison(options, self._losses)
        self._warm_up = 0
        self._calls: TaughtCalls | None = None
        self._has_seen_a_call = False
        self._is_placed = False
        self._trainer: L.Trainer | None = None
        self._module: L.LightningModule | None = None
        self._prepared: PreparedModule | None = None

    def describe(self) -> dict[str, Any]:
        """What a checkpoint holds of it, in plain types: all that was asked for, and the teacher's digest."""
        return {**self._options.describe(), "teacher": self._teacher.digest}

    def resolve(self, length: Callable[[], FitLength]) -> None:
        """Turn the warm-up into optimizer steps.

        Args:
            length: How long the fit is; asked only if the warm-up is a fraction of it.

        Raises:
            ConfigurationError: It is a fraction of a fit of unknown length.
        """
        point = self._options.warm_up
        self._warm_up = (
            point if isinstance(point, int) else length().step_of(point, "warm_up of Distillation")
        )

    def weight(self) -> float:
        """What the distance is multiplied by in this step."""
        if self._warm_up <= 0 or self._prepared is None:
            return self._options.weight
        return self._options.weight * min(1.0, (self._prepared.steps + 1) / self._warm_up)

    def start(self, trainer: L.Trainer, pl_module: L.LightningModule, prepared: PreparedModule) -> None:
        """Take part in every training step from now on, those of Lightning's finders before the fit included.

        Args:
            trainer: The Trainer, in a fit.
            pl_module: What it fits.
            prepared: The module within it.
        """
        self.stop()
        self.distance = None
        self._trainer, self._module, self._prepared = trainer, pl_module, prepared
        self._has_seen_a_call = self._is_placed = False
        network = prepared.module
        compiled: list[nn.Module] = [
            part
            for part in pl_module.modules()
            if isinstance(part, OptimizedModule) and part._orig_mod is network
        ]
        parts: dict[str, list[nn.Module]] = {part: [network.get_submodule(part)] for part in self._parts}
        # Hooks within what is compiled as a whole would cut it into pieces.
        callees = {"": compiled} if compiled else parts
        self._calls = TaughtCalls(callees, InnerOutputs(network, self._losses), self._teacher)
        strategy_steps.enter(trainer.strategy, self._step)

    def stop(self) -> None:
        """Take part in no further step."""
        if self._trainer is not None:
            strategy_steps.leave(self._trainer.strategy, self._step)
        self._trainer = self._module = self._prepared = self._calls = None

    def leave(self) -> None:
        """Give the accelerator's memory back, which after an error nobody may be able to."""
        self._teacher.leave()

    @contextmanager
    def _step(self) -> Iterator[None]:
        """Within it, the LightningModule's training step returns the loss with the term.

        It is added there and nowhere later: what DistributedDataParallel has wrapped must return the whole graph.
        """
        trainer, module, calls = self._trainer, self._module, self._calls
        assert trainer is not None
        assert module is not None
        assert calls is not None
        if not self._is_placed:
            # Where the module is placed before its first step, and on every process.
            self._teacher.place(trainer)
            self._is_placed = True
        training_step = module.training_step
        own = vars(module).get("training_step", _ABSENT)

        def with_term(*arguments: Any, **keywords: Any) -> Any:
            return self._with_term(training_step(*arguments, **keywords), calls)

        module.training_step = with_term  # type: ignore[method-assign]
        try:
            with calls.listening():
                yield
        finally:
            del module.training_step
            if own is not _ABSENT:
                module.training_step = own  # type: ignore[method-assign]

    def _with_term(self, returned: Any, calls: TaughtCalls) -> Any:
        loss = returned.get("loss") if isinstance(returned, Mapping) else returned
        if not isinstance(loss, Tensor):
            return returned
        if not calls.calls:
            self._require_calls(calls)
            return returned
        self._has_seen_a_call = True
        distance = torch.stack([self._comparison.distance(call) for call in calls.calls]).mean()
        self.distance = distance.detach()
        total = loss + (self.weight() * distance).to(loss)
        return {**returned, "loss": total} if isinstance(returned, Mapping) else total

    def _require_calls(self, calls: TaughtCalls) -> None:
        """Steps without the module are the user's business, unless the first is one."""
        if self._has_seen_a_call:
            return
        name = type(self._module).__name__
        if calls.without_gradient:
            raise ConfigurationError(
                f"training_step of {name} called the compressed module without gradients alone: under torch.no_grad, "
                "or in activation checkpointing with use_reentrant=True, of which nothing can be differentiated; use "
                "use_reentrant=False"
            )
        raise ConfigurationError(
            f"training_step of {name} did not call the compressed module, so that its outputs cannot be compared with "
            "those of a teacher; call it as a whole, self.model(inputs), and not parts or other methods of it, or name "
            "with Compression(module=...) what is called"
        )
