"""How far the outputs are expected to move where a tensor takes a form, for every tensor and every form.

To first order (`lightning_compress.explore.error_scores`), by the errors of the values that would be stored, by the
methods that would store them. For some forms the outputs are really computed with one tensor after the other in this
form: what is large is not of first order alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_compress.explore.compressing import Compressing, compressed_after_training
from lightning_compress.explore.error_scores import error_scores
from lightning_compress.explore.forms import Form, needed_by
from lightning_compress.explore.input_scores import input_scores
from lightning_compress.explore.projection import OutputProjection
from lightning_compress.explore.record import Option, TensorRecord
from lightning_compress.explore.sizes import dense_bytes, stored_bytes
from lightning_compress.methods.mechanism.agreement import Call
from lightning_compress.methods.mechanism.copies import copy_module
from lightning_compress.methods.mechanism.stored import read_stored
from lightning_compress.methods.mechanism.tensors import TensorReference, find_tensors
from lightning_compress.package.targets import Capability, resolve_target

LEAST_ELEMENTS = 256
"""Smaller tensors stay dense: a palette and its header take what they would win."""

_MOST_ERRORS = 1 << 28
"""Errors that are held at once, in single precision: 1 GiB."""

_EXAMPLES_OF_INPUTS = 16
"""Those of the scores of inputs, each a sum over so many inputs that few examples do."""

_SEED = 1
"""Of the projections of scores; not that of the importance, by which errors were made small."""


@dataclass(frozen=True)
class Searched:
    """A tensor of the network that is searched.

    Attributes:
        reference: The tensor.
        reason: Why it stays dense; None where it need not.
    """

    reference: TensorReference
    reason: str | None


def searched_tensors(network: nn.Module, left_alone: Collection[str] = ()) -> list[Searched]:
    """The tensors of two or more dimensions, and which of them stay dense whatever is searched.

    Args:
        network: The network.
        left_alone: Names of tensors, or of modules, that stay dense with all that is in them.
    """
    return [Searched(reference, _reason(reference, left_alone)) for reference in find_tensors(network)]


class SensitivityTable:
    """The options of every tensor, form by form.

    Args:
        network: In full precision and evaluation mode, with the float weights; it is not changed.
        tensors: As `searched_tensors` finds them in it.
        projection: Tells how far outputs move; asked for once a form is computed.
        target: The deployment target, which may not carry every form; None for no limit.
        compress: How forms are reached.
    """

    def __init__(
        self,
        network: nn.Module,
        tensors: Sequence[Searched],
        projection: Callable[[], OutputProjection],
        *,
        target: str | None = None,
        compress: Compressing = compressed_after_training,
    ) -> None:
        self._network = network
        self._tensors = tensors
        self._projection = projection
        self._target = None if target is None else resolve_target(target)
        self._compress = compress

    def groups(self, forms: Sequence[Form]) -> list[list[Form]]:
        """Forms as `options` is best asked for them: as many at once as there is room for their errors."""
        elements = sum(searched.reference.numel for searched in self._tensors if searched.reason is None)
        size = max(1, _MOST_ERRORS // max(elements, 1))
        return [list(forms[start : start + size]) for start in range(0, len(forms), size)]

    def options(
        self, forms: Sequence[Form], *, measures: Collection[Form] = ()
    ) -> dict[str, dict[str, Option]]:
        """What forms cost each tensor that can have them, by name of the form and then of the tensor.

        Args:
            forms: The forms; the gradients of each example are computed once for all of them.
            measures: Those of them for which the outputs are computed with each tensor in them.
        """
        found: dict[str, dict[str, Option]] = {}
        errors: dict[str, list[Tensor]] = {}
        scored: dict[str, list[str]] = {}
        for form in forms:
            found[form.name], of_form = self._unscored(form, measures=form in measures)
            for name, error in of_form.items():
                errors.setdefault(name, []).append(error)
                scored.setdefault(name, []).append(form.name)
        if errors:
            for name, scores in self._scores(errors).items():
                for form_name, score in zip(scored[name], scores, strict=True):
                    found[form_name][name] = dataclasses.replace(found[form_name][name], score=score)
        return found

    def _scores(self, errors: Mapping[str, Sequence[Tensor]]) -> dict[str, list[float]]:
        projection = self._projection()
        # The same projections for all forms, whichever of them are computed at once.
        projection.begin(_SEED)
        references = [searched.reference for searched in self._tensors if searched.reference.name in errors]
        return error_scores(references, projection, errors, projection.calls)

    def _unscored(self, form: Form, *, measures: bool) -> tuple[dict[str, Option], dict[str, Tensor]]:
        """What a form takes in each tensor that can have it, and the errors that it makes."""
        if form == Form():
            references = [searched.reference for searched in self._tensors]
            return {ref.name: Option(form.name, dense_bytes(ref.numel), 0.0) for ref in references}, {}
        able = self._able(form)
        if not able:
            return {}, {}
        compressed = self._compress(self._network, {reference.name: form for reference in able}).network
        options, errors = {}, {}
        for reference in able:
            owner, value = _owner(compressed, reference)
            taken = stored_bytes(value, read_stored(owner, reference.owners[0].parameter))
            options[reference.name] = Option(form.name, taken)
            errors[reference.name] = value.float() - reference.value().detach()
        return (self._measured(options, able, compressed) if measures else options), errors

    def able(self, form: Form) -> list[str]:
        """Names of the tensors that can have a form, and need not stay dense."""
        return [reference.name for reference in self._able(form)]

    def inputs(self) -> dict[str, float]:
        """What rounding the inputs of each layer to int8 costs, by name of its tensor."""
        references = [searched.reference for searched in self._tensors]
        projection = self._projection()
        projection.begin(_SEED)
        calls = evenly(projection.calls, _EXAMPLES_OF_INPUTS)
        return input_scores(self._network, references, projection, calls)

    def records(self, options: Mapping[str, Mapping[str, Option]]) -> list[TensorRecord]:
        """The table, of what `options` has returned.

        Args:
            options: By name of the form, then by name of the tensor.
        """
        records = []
        for searched in self._tensors:
            reference = searched.reference
            found = [of[reference.name] for of in options.values() if reference.name in of]
            ordered = tuple(sorted(found, key=lambda option: (-option.bytes, option.form)))
            dense = next(option for option in ordered if option.form == Form().name)
            others = tuple(option for option in ordered if option is not dense)
            records.append(
                TensorRecord(reference.name, tuple(reference.shape), (dense, *others), reason=searched.reason)
            )
        return records

    def _measured(
        self, options: Mapping[str, Option], references: Sequence[TensorReference], compressed: nn.Module
    ) -> dict[str, Option]:
        scratch = copy_module(self._network).eval()
        found = {}
        for reference in references:
            owner, value = _owner(scratch, reference)
            if parametrize.is_parametrized(owner, reference.owners[0].parameter):
                # Computed anew whenever it is read: its score has to do.
                found[reference.name] = options[reference.name]
                continue
            kept = value.detach().clone()
            with torch.no_grad():
                value.copy_(_owner(compressed, reference)[1])
                distance = self._projection().distance(scratch)
                value.copy_(kept)
            found[reference.name] = dataclasses.replace(options[reference.name], measured=distance)
        return found

    def _able(self, form: Form) -> list[TensorReference]:
        open_to = [searched.reference for searched in self._tensors if searched.reason is None]
        return [reference for reference in open_to if self._can_have(reference, form)]

    def _can_have(self, reference: TensorReference, form: Form) -> bool:
        needed = needed_by(reference, form)
        return needed is not None and self._carries(needed)

    def _carries(self, needed: Collection[Capability]) -> bool:
        return self._target is None or resolve_target(None, needed).value <= self._target.value


def _owner(network: nn.Module, reference: TensorReference) -> tuple[nn.Module, Tensor]:
    """The first owner of a tensor in a copy of the network, and the tensor there."""
    owner = network.get_submodule(reference.owners[0].module_name)
    value = getattr(owner, reference.owners[0].parameter)
    assert isinstance(value, Tensor)
    return owner, value.detach()


def _reason(reference: TensorReference, left_alone: Collection[str]) -> str | None:
    if reference.kind is None:
        return "a parameter of no known layer"
    if not reference.dtype.is_floating_point:
        return f"its type is {reference.dtype}"
    for name in (*reference.names, *reference.aliases):
        for given in left_alone:
            if name == given or name.startswith(f"{given}."):
                return f"left alone as asked ({given})"
    if reference.numel < LEAST_ELEMENTS:
        return f"{reference.numel:,} elements, fewer than {LEAST_ELEMENTS}"
    return None


def evenly(calls: Sequence[Call], most: int) -> list[Call]:
    """So many calls at most, evenly from all of them."""
    count = min(most, len(calls))
    return [calls[place * len(calls) // count] for place in range(count)]
