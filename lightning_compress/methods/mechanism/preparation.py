"""A module with every technique in place: parametrizations on its tensors, hooks at the inputs of its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.calibrated import CalibratedTechnique
from lightning_compress.methods.mechanism.finalization import Example, finalize
from lightning_compress.methods.mechanism.inputs import compress_inputs
from lightning_compress.methods.mechanism.joining import chained, in_order, needed_capabilities
from lightning_compress.methods.mechanism.layer_inputs import matrix_form
from lightning_compress.methods.mechanism.method import Companion, Method, TensorState
from lightning_compress.methods.mechanism.output_shifts import OutputShift, add_shift
from lightning_compress.methods.mechanism.plan import Plan, PlannedTensor, make_plan
from lightning_compress.methods.mechanism.plan_table import PlannedRow
from lightning_compress.methods.mechanism.recurrent import refresh_flat_weights
from lightning_compress.methods.mechanism.report import Report, report_tensors
from lightning_compress.methods.mechanism.schedule import FitLength
from lightning_compress.methods.mechanism.technique import InputTechnique, Stepped, Technique
from lightning_compress.methods.mechanism.tensors import TensorReference
from lightning_compress.package.targets import Capability
from lightning_compress.processes import broadcast


class PreparedModule:
    """A module with every technique inside, until a copy of it is finalized.

    Nothing is traced and no module is exchanged: names, types and Parameter objects stay; a compressed weight's key in
    the state dict becomes `<module>.parametrizations.<weight>.original`.

    Args:
        module: The module to compress, changed in place.
        methods: The techniques, in any order; none prepares nothing.

    Attributes:
        module: The module.
        plan: What is done to which tensor.
        capabilities: What a package must be able to hold.
        steps: Optimizer steps taken.

    Raises:
        CompressionError: As `make_plan` and `chained` raise it.
    """

    def __init__(self, module: nn.Module, methods: Sequence[Method]) -> None:
        _refuse_prepared(module)
        self.module = module
        self.methods = in_order(methods)
        self.steps = 0
        self.plan: Plan = make_plan(module, self.methods)
        self.capabilities: set[Capability] = needed_capabilities(self.plan)
        self._states: dict[Method, list[TensorState]] = {method: [] for method in self.methods}
        self._inputs: dict[Method, dict[str, InputTechnique]] = {method: {} for method in self.methods}
        # Every chain is made before the module is touched: a refusal leaves it as it was.
        chains = [(planned, chained(planned)) for planned in self.plan.tensors if planned.keys]
        for planned, chain in chains:
            self._register(planned, chain)
        for method, states in self._states.items():
            method.connect(states)
        for layer in self.plan.layers:
            self._inputs[layer.method] |= compress_inputs(layer)
        self._companions: dict[Method, Companion] = {
            method: companion
            for method in self.methods
            if (companion := method.companion(module)) is not None
        }

    def _register(self, planned: PlannedTensor, chain: Mapping[Method, Technique]) -> None:
        reference = planned.reference
        preceding = _number_of_parametrizations(reference)
        for technique in chain.values():
            technique.to(reference.device)
            for owner in reference.owners:
                # One object at every owner: a tied weight has one palette, which moves once a step.
                parametrize.register_parametrization(owner.module, owner.parameter, technique, unsafe=True)
        for owner in reference.owners:
            if reference.kind is not None and reference.kind.is_recurrent:
                refresh_flat_weights(owner.module)
        if any(isinstance(part, CalibratedTechnique) and part.corrects_bias for part in chain.values()):
            _shift_outputs(reference)
        for index, (method, technique) in enumerate(chain.items()):
            tensor = _tensor_before(reference, preceding + index)
            self._states[method].append(TensorState(reference, planned.keys[method], technique, tensor))

    def chains(self) -> list[tuple[TensorReference, list[TensorState]]]:
        """Every tensor that is compressed, with its techniques in the order in which they apply."""
        found: dict[str, list[TensorState]] = {}
        for states in self._states.values():
            for state in states:
                found.setdefault(state.reference.name, []).append(state)
        return [
            (
                reference,
                sorted(found.get(reference.name, []), key=lambda state: state.technique.stage),
            )
            for reference in self._references()
            if reference.name in found
        ]

    def planned_rows(self) -> tuple[list[PlannedRow], list[tuple[str, str]]]:
        """What is done to each tensor, and at the inputs of which layers, for a table."""
        techniques: dict[str, list[Technique]] = {}
        for technique in self.techniques():
            techniques.setdefault(technique.tensor_name, []).append(technique)
        rows = []
        for planned in self.plan.tensors:
            reference = planned.reference
            chain = sorted(techniques.get(reference.name, []), key=lambda technique: technique.stage)
            reasons = list(dict.fromkeys(reason for reason in planned.reasons.values() if reason))
            done = " + ".join(technique.label for technique in chain)
            left = "; ".join(reasons) or "no technique asks for it"
            # Of a joint compression that takes a tensor in part, the rest is told too.
            treatment = (f"{done} alone: {left}" if reasons else done) if chain else left
            rows.append(PlannedRow(reference.names, reference.numel, treatment, bool(chain)))
        inputs = [
            (layer.name or type(layer.module).__name__, technique.label)
            for layer in self.plan.layers
            for name, technique in self._inputs[layer.method].items()
            if name == f"{layer.name}.{layer.kind.inputs[0]}".lstrip(".")
        ]
        return rows, inputs

    def dense_reasons(self) -> dict[str, str]:
        """Why tensors stay as they are, by each of their dotted names."""
        return {
            name: row.treatment
            for row in self.planned_rows()[0]
            if not row.is_compressed
            for name in row.names
        }

    # A fit.

    def resolve_schedule(self, length: FitLength) -> None:
        """Turn fractions of the fit into steps, in every part."""
        for part in self._parts():
            part.resolve_schedule(length)

    def start_training(self) -> None:
        """Called when training starts or goes on."""
        # What was found is of weights that are about to change.
        self.forget_calibration()
        for states in self._states.values():
            for state in states:
                state.technique.begin(state.tensor)
        for companion in self._companions.values():
            companion.advance(self.steps)

    def step(self) -> None:
        """Advance every part by one optimizer step."""
        parts = list(self._parts())
        for part in parts:
            part.commit()
        broadcast(tensor for part in parts for tensor in part.shared())
        self.steps += 1
        with torch.no_grad():
            # Zeros first: a palette that begins at the same step begins from what is left.
            for method in sorted(self.methods, key=self._first_stage):
                method.advance(self.steps, self._states[method])
            for technique in self._input_techniques():
                technique.advance(self.steps)
        for companion in self._companions.values():
            companion.advance(self.steps)

    def metrics(self) -> dict[str, float]:
        """The numbers of every technique."""
        return {
            key: value
            for method in self.methods
            for key, value in method.metrics(self._states[method]).items()
        }

    def unfinished(self) -> list[str]:
        """What each technique still has to do."""
        return [
            reason
            for method in self.methods
            if (reason := method.unfinished(self.steps, list(self._parts_of(method)))) is not None
        ]

    def report(self) -> Report:
        """Palettes, scales and errors by tensor, for whoever debugs; changes nothing, in training either."""
        return report_tensors([state for states in self._states.values() for state in states])

    def state_dict(self) -> dict[str, Any]:
        """Progress that buffers do not hold, in plain types."""
        return {
            "steps": self.steps,
            "parts": {name: progress for name, part in self._named_parts() if (progress := part.progress())},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore progress; may be called more than once, after the module's own state was loaded."""
        self.steps = int(state["steps"])
        for name, part in self._named_parts():
            if name in state["parts"]:
                part.restore(state["parts"][name])
        for companion in self._companions.values():
            companion.advance(self.steps)

    def own_tensors(self) -> Iterator[Tensor]:
        """What preparing has added to the module: parameters and buffers of the techniques."""
        for part in self._parts():
            yield from part.parameters()
            yield from part.buffers()
        yield from (shift.shift for shift in self._shifts())

    def techniques(self) -> Iterator[Technique]:
        """The techniques on tensors, in the order in which they were put in place."""
        for states in self._states.values():
            for state in states:
                yield state.technique

    # Data.

    def forget_calibration(self) -> None:
        """Let techniques that are driven by data be as they were before they had seen any."""
        for technique in self.techniques():
            if isinstance(technique, CalibratedTechnique):
                technique.forget()
        for shift in self._shifts():
            shift.shift.zero_()

    def calibrated_state(self) -> dict[str, Tensor]:
        """What calibration has found, for another process to take up."""
        return dict(self._calibrated_tensors())

    def take_calibrated_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `calibrated_state` returned."""
        for name, tensor in self._calibrated_tensors():
            tensor.copy_(state[name])
        for technique in self.techniques():
            technique.read_switches()

    def _calibrated_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for number, technique in enumerate(self.techniques()):
            if isinstance(technique, CalibratedTechnique):
                yield from ((f"{number}.{name}", buffer) for name, buffer in technique.named_buffers())
        yield from ((f"shift {number}", shift.shift) for number, shift in enumerate(self._shifts()))

    def _shifts(self) -> Iterator[OutputShift]:
        return (part for part in self.module.modules() if isinstance(part, OutputShift))

    # The end.

    def finalize(self, examples: Sequence[Example] = (), *, rehearses: bool = False) -> nn.Module:
        """A finalized copy on the CPU, in float32 and evaluation mode; the prepared module stays as it is.

        Args:
            examples: Inputs of the module, by position or by name, to show to techniques that have seen no data yet.
            rehearses: Whether every technique is to take the form that it will have at the end of its schedule.

        Raises:
            WeightError: A weight holds NaN or infinity.
            CompressionError: A technique has seen no data and there are no examples.
        """
        companions = list(self._companions.values())
        return finalize(self.module, self._references(), companions, examples, rehearses=rehearses)

    def _first_stage(self, method: Method) -> int:
        return min((state.technique.stage for state in self._states[method]), default=0)

    def _references(self) -> list[TensorReference]:
        return [planned.reference for planned in self.plan.tensors if planned.keys]

    def _parts_of(self, method: Method) -> Iterator[Stepped]:
        for state in self._states[method]:
            yield state.technique
        yield from self._inputs[method].values()
        if method in self._companions:
            yield self._companions[method]

    def _parts(self) -> Iterator[Stepped]:
        for method in self.methods:
            yield from self._parts_of(method)

    def _named_parts(self) -> Iterator[tuple[str, Stepped]]:
        for method in self.methods:
            technique = method.schema.technique
            for state in self._states[method]:
                yield f"{technique}/{state.reference.name}", state.technique
            for name, part in self._inputs[method].items():
                yield f"{technique}/inputs of {name}", part
            if method in self._companions:
                yield technique, self._companions[method]

    def _input_techniques(self) -> Iterator[InputTechnique]:
        for techniques in self._inputs.values():
            yield from techniques.values()


def _number_of_parametrizations(reference: TensorReference) -> int:
    owner = reference.owners[0]
    if not parametrize.is_parametrized(owner.module, owner.parameter):
        return 0
    return len(owner.module.parametrizations[owner.parameter])  # type: ignore[index]


def _tensor_before(reference: TensorReference, count: int) -> Callable[[], Tensor]:
    """Computes the tensor as it comes out of its first `count` parametrizations, without gradients."""
    owner = reference.owners[0]
    chain = owner.module.parametrizations[owner.parameter]  # type: ignore[index]
    assert isinstance(chain, parametrize.ParametrizationList)

    def compute() -> Tensor:
        with torch.no_grad():
            if chain.is_tensor:
                tensor: Tensor = chain.original
                first = 0
            else:
                tensor = chain[0](*(getattr(chain, f"original{index}") for index in range(chain.ntensors)))
                first = 1
            for index in range(first, count):
                tensor = chain[index](tensor)
            return tensor.detach()

    return compute


def _shift_outputs(reference: TensorReference) -> None:
    """Add a shift to the outputs of the one layer that computes nothing but the product with a weight."""
    owner = reference.owners[0]
    if len(reference.owners) > 1 or owner.part_of is not None or owner.parameter != "weight":
        return
    form = matrix_form(reference)
    if form is None or parametrize.is_parametrized(owner.module, "bias"):
        return
    spatial = len(reference.shape) - 2
    add_shift(owner.module, form.rows, spatial, reference.device)


def _refuse_prepared(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if isinstance(part, Stepped):
            raise ConfigurationError(
                f"{name.partition('.parametrizations')[0]!r} is already prepared for compression; use one Compression "
                "for a module, with several methods for a joint compression, and a fresh module for a new one"
            )
