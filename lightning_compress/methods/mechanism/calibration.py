"""Techniques that are driven by data are shown them, one tensor after the other in the order in which layers run."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.counted import counted
from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.methods.mechanism.calibrated import CalibratedTechnique, Evidence, InputMoments
from lightning_compress.methods.mechanism.layer_inputs import Gather, gather_of, matrix_form
from lightning_compress.methods.mechanism.method import TensorState
from lightning_compress.methods.mechanism.output_shifts import OutputShift, shift_of
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.mechanism.suspension import SuspendedPass, running_pass, suspended_passes
from lightning_compress.methods.mechanism.technique import Stepped
from lightning_compress.methods.mechanism.tensors import TensorReference

_logger = logging.getLogger(__name__)

_LEAST_ROWS = 1 << 15
"""Rows of inputs that a Hessian is made of, of more than that a sample."""

_ROWS_A_COLUMN = 8
"""So many for each of its columns, where that is more."""


@torch.no_grad()
def calibrate(
    prepared: PreparedModule,
    *,
    run: Callable[[Any], Any] | None = None,
    batches: Iterable[Any] = (),
    importance: Mapping[str, Tensor] | None = None,
    evaluation: bool = True,
) -> None:
    """Find the state of every technique that is driven by data.

    Tensors are compressed in the order in which their layers run. All batches wait before a layer until it is
    compressed and go on through it afterwards, so that each layer sees what compressed ones made, each batch goes
    through the module twice at most, and one layer's second moments are in memory at a time. A weight that is used
    several times in a pass, by one layer or by several, is compressed when it is used for the last time, by what came
    in each time.

    Args:
        prepared: The module; techniques that are in place already, such as masks, stay what they are.
        run: Runs the module on a batch, calling it once or more; by default the module is called with the batch, one
            that is a tuple by position and one that is a mapping by name.
        batches: They are held in memory all at once. A batch is one pass, so that a few large ones are best.
        importance: The mean squared gradient of each element by name of the tensor, as `squared_gradients` gives it.
        evaluation: Whether the module runs in evaluation; otherwise in the modes that its parts are in.

    Raises:
        CompressionError: A technique needs data that are not given, or `run` calls no layer of the module.
        ConfigurationError: Importance of another shape.
        WeightError: What comes into a layer is not finite.

    Example:
        >>> prepared = PreparedModule(network, [GPTQ(weight_dtype="int4")])
        >>> calibrate(prepared, batches=[images[:64], images[64:]])
        >>> finalized = prepared.finalize()
    """
    targets = _targets(prepared, importance or {})
    run = functools.partial(_call, prepared.module) if run is None else run
    held = list(batches) if any(target.looks_at_inputs for target in targets) else []
    if not held:
        _require_no_inputs(targets)
    with _in_evaluation(prepared.module, whole=evaluation):
        if held:
            _show_inputs(prepared.module, run, held)
            _Walk(targets, len(held)).run(run, held)
        silent = [target for target in targets if not target.is_done]
        if held and all(target in silent for target in targets if target.looks_at_inputs):
            raise CompressionError(
                "no layer that is compressed by what comes into it was called; nothing tells what that is. In a fit "
                "the training step has to call the module, or Compression(module=...) to name the one that it calls"
            )
        for target in silent:
            target.compress(None)
    unseen = [target.reference.name for target in silent if target.needs_second]
    if unseen:
        _logger.warning(
            "the inputs of %s were never seen, and each element is rounded by itself: %s%s",
            counted(len(unseen), "weight"),
            ", ".join(unseen[:5]),
            ", ..." if len(unseen) > 5 else "",
        )


@dataclass(frozen=True)
class Needs:
    """What calibration needs.

    Attributes:
        inputs: Whether batches.
        importance: Names of the tensors whose importance is needed.
    """

    inputs: bool
    importance: tuple[str, ...]

    @property
    def any(self) -> bool:
        """Whether anything."""
        return self.inputs or bool(self.importance)


def needs_of(prepared: PreparedModule) -> Needs:
    """What the techniques of a module need to be calibrated; nothing where none is driven by data."""
    inputs, importance = False, []
    for reference, states in prepared.chains():
        techniques = _calibrated(states)
        shifted = any(shift_of(owner.module) is not None for owner in reference.owners)
        inputs |= shifted or any(technique.needs_inputs for technique in techniques)
        if any(technique.needs_importance for technique in techniques):
            importance.append(reference.name)
    return Needs(inputs, tuple(importance))


def _calibrated(states: Sequence[TensorState]) -> list[CalibratedTechnique]:
    return [state.technique for state in states if isinstance(state.technique, CalibratedTechnique)]


class _Target:
    """A tensor that data decide of."""

    def __init__(
        self, reference: TensorReference, states: Sequence[TensorState], importance: Tensor | None
    ) -> None:
        self.reference = reference
        self.is_done = False
        self._states = states
        self._importance = importance
        self._form = matrix_form(reference)
        techniques = _calibrated(states)
        self.needs_second = any(technique.needs_inputs for technique in techniques)
        self.looks_at_inputs = self._form is not None and (self.needs_second or bool(self._shifts()))
        if importance is None:
            self._require_no_importance(techniques)
        elif importance.shape != reference.shape:
            raise ConfigurationError(
                f"importance of {reference.name!r} has the shape {tuple(importance.shape)}; valid is that of the "
                f"weight, {tuple(reference.shape)}"
            )

    def _require_no_importance(self, techniques: Sequence[CalibratedTechnique]) -> None:
        if any(technique.needs_importance for technique in techniques):
            raise CompressionError(
                f"{self.reference.name!r} is clustered by how much each weight matters, and importance does not hold "
                "it; give what lightning_compress.methods.squared_gradients returns for single examples"
            )

    @property
    def most_rows(self) -> int:
        """Rows that its moments are made of at most."""
        assert self._form is not None
        return max(_LEAST_ROWS, _ROWS_A_COLUMN * self._form.columns)

    def gathers(self) -> Iterator[tuple[nn.Module, Gather]]:
        """The layers whose calls tell what it is multiplied by, and how."""
        for owner in self.reference.owners:
            gather = gather_of(owner)
            if gather is not None:
                yield gather

    def compress(self, inputs: InputMoments | None) -> None:
        """Let every technique find its state."""
        before = self._states[0].tensor()
        importance = None if self._importance is None else self._importance.to(before.device)
        evidence = Evidence(self._form, inputs if self.needs_second else None, importance)
        for state in self._states:
            if isinstance(state.technique, CalibratedTechnique):
                state.technique.calibrate(state.tensor(), evidence)
        if inputs is not None:
            self._correct_bias(before, inputs)
        self.is_done = True

    def _shifts(self) -> list[OutputShift]:
        shifts = [shift_of(owner.module) for owner in self.reference.owners]
        return [shift for shift in shifts if shift is not None]

    def _correct_bias(self, before: Tensor, inputs: InputMoments) -> None:
        shifts = self._shifts()
        if not shifts:
            return
        assert self._form is not None
        error = self._form.matrix(before - self.reference.value()).float()
        first = inputs.first
        moved = torch.einsum("grd,gd->gr", error.reshape(len(first), -1, error.shape[1]), first)
        for shift in shifts:
            shift.shift.copy_(moved.reshape(-1))


class _Walk:
    """All batches on their way through a module, with a halt before each layer to be compressed."""

    def __init__(self, targets: Sequence[_Target], passes: int) -> None:
        self._targets = [target for target in targets if target.looks_at_inputs]
        self._passes = passes
        # How often a weight is used in a pass.
        self._uses: dict[_Target, int] = {}
        # Those that the first batch uses, in the order in which it does.
        self._order: list[_Target] = []
        self._used: dict[tuple[SuspendedPass[_Target], _Target], int] = {}
        self._moments: dict[_Target, InputMoments] = {}

    def run(self, run: Callable[[Any], Any], batches: Sequence[Any]) -> None:
        """Take the batches through, compressing each target when all that get to it have come."""
        layers: dict[nn.Module, list[tuple[_Target, Gather]]] = {}
        for target in self._targets:
            for layer, gather in target.gathers():
                layers.setdefault(layer, []).append((target, gather))
        handles = [
            layer.register_forward_pre_hook(functools.partial(self._arrive, stops), with_kwargs=True)
            for layer, stops in layers.items()
        ]
        try:
            run(batches[0])
            self._order = list(self._uses)
            with suspended_passes([functools.partial(run, batch) for batch in batches]) as passes:
                self._walk(passes)
        finally:
            for handle in handles:
                handle.remove()

    def _walk(self, passes: Sequence[SuspendedPass[_Target]]) -> None:
        while True:
            for each in passes:
                while not each.has_ended and (each.place is None or each.place.is_done):
                    each.resume()
            waiting = [each.place for each in passes if each.place is not None]
            if not waiting:
                break
            self._compress(min(waiting, key=self._rank))
        for target in list(self._moments):
            self._compress(target)

    def _rank(self, target: _Target) -> int:
        """Which of the layers that passes wait at is next; passes in branches of their own may join others again."""
        return self._order.index(target) if target in self._order else -1

    def _compress(self, target: _Target) -> None:
        target.compress(self._moments.pop(target))

    def _arrive(
        self,
        stops: Sequence[tuple[_Target, Gather]],
        layer: nn.Module,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> None:
        current = running_pass()
        for target, gather in stops:
            if current is None:
                self._uses[target] = self._uses.get(target, 0) + 1
                continue
            if target.is_done:
                continue
            self._uses.setdefault(target, 1)
            used = self._used.get((current, target), 0) + 1
            self._used[current, target] = used
            most = -(-target.most_rows // (self._passes * self._uses[target]))
            rows = gather(layer, (arguments, keywords), most)
            if rows is not None:
                moments = self._moments.setdefault(target, InputMoments(with_second=target.needs_second))
                moments.add(rows)
            if used >= self._uses[target] and target in self._moments:
                current.stop_at(target)


def _targets(prepared: PreparedModule, importance: Mapping[str, Tensor]) -> list[_Target]:
    targets = [
        _Target(reference, states, importance.get(reference.name))
        for reference, states in prepared.chains()
        if _calibrated(states)
    ]
    # What an earlier calibration found must not be taken for what comes in.
    prepared.forget_calibration()
    return targets


def _require_no_inputs(targets: Sequence[_Target]) -> None:
    for target in targets:
        if target.looks_at_inputs:
            raise CompressionError(
                f"{target.reference.name!r} is compressed by what comes into its layer, and there are no batches; give "
                "calibrate(batches=...), some hundred samples in a few batches"
            )


def _show_inputs(module: nn.Module, run: Callable[[Any], Any], batches: Sequence[Any]) -> None:
    """Let inputs that are compressed too be observed first: what layers see is compressed then."""
    blind = [part for part in module.modules() if isinstance(part, Stepped) and part.is_blind]
    if not blind:
        return
    for part in blind:
        part.watch(True)
    try:
        for batch in batches:
            run(batch)
            for part in blind:
                part.commit()
    finally:
        for part in blind:
            part.watch(False)


@contextlib.contextmanager
def _in_evaluation(module: nn.Module, *, whole: bool) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    for part in module.modules():
        if whole or isinstance(part, Stepped):
            part.training = False
    # It computes whole layers of a transformer, and calls none of their parts.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for part, mode in modes:
            part.training = mode


def _call(module: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return module(**batch)
    return module(*batch) if isinstance(batch, tuple | list) else module(batch)
