"""How far the outputs are expected to move where a tensor takes a form, for every tensor and every form.

The importance of each element (`lightning_compress.explore.projection`) times its squared error. The errors are those
of the values that would be stored, by the methods that would store them. Errors of neighbouring weights are taken for
independent by this, which they are not; so for some forms the outputs are really computed with one tensor after the
other in this form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_compress.explore.compressing import Compressing, compressed_after_training
from lightning_compress.explore.forms import Form, needed_by
from lightning_compress.explore.input_scores import input_scores
from lightning_compress.explore.projection import OutputProjection
from lightning_compress.explore.record import Option, TensorRecord
from lightning_compress.explore.sizes import dense_bytes, stored_bytes
from lightning_compress.methods.mechanism.copies import copy_module
from lightning_compress.methods.mechanism.stored import read_stored
from lightning_compress.methods.mechanism.tensors import TensorReference, find_tensors
from lightning_compress.package.targets import Capability, resolve_target

LEAST_ELEMENTS = 256
"""Smaller tensors stay dense: a palette and its header take what they would win."""


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
        importance: Tells, by name, the importance of each element; asked for once a form is computed.
        projection: Tells how far outputs have moved; likewise.
        target: The deployment target, which may not carry every form; None for no limit.
        compress: How forms are reached.
    """

    def __init__(
        self,
        network: nn.Module,
        tensors: Sequence[Searched],
        importance: Callable[[], Mapping[str, Tensor]],
        projection: Callable[[], OutputProjection],
        *,
        target: str | None = None,
        compress: Compressing = compressed_after_training,
    ) -> None:
        self._network = network
        self._tensors = tensors
        self._importance = importance
        self._projection = projection
        self._target = None if target is None else resolve_target(target)
        self._compress = compress

    def options(self, form: Form, *, measures: bool = False) -> dict[str, Option]:
        """What a form costs each tensor that can have it, by name of the tensor.

        Args:
            form: The form.
            measures: Whether to compute the outputs with each tensor in it.
        """
        open_to = [searched.reference for searched in self._tensors if searched.reason is None]
        able = [reference for reference in open_to if self._can_have(reference, form)]
        if form == Form():
            references = [searched.reference for searched in self._tensors]
            return {ref.name: Option(form.name, dense_bytes(ref.numel), 0.0) for ref in references}
        if not able:
            return {}
        compressed = self._compress(self._network, {reference.name: form for reference in able}).network
        options = {reference.name: self._option(reference, form, compressed) for reference in able}
        return self._measured(options, able, compressed) if measures else options

    def inputs(self) -> dict[str, float]:
        """What rounding the inputs of each layer to int8 costs, by name of its tensor."""
        references = [searched.reference for searched in self._tensors]
        return input_scores(self._network, references, self._projection())

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

    def _can_have(self, reference: TensorReference, form: Form) -> bool:
        needed = needed_by(reference, form)
        return needed is not None and self._carries(needed)

    def _carries(self, needed: Collection[Capability]) -> bool:
        return self._target is None or resolve_target(None, needed).value <= self._target.value

    def _option(self, reference: TensorReference, form: Form, compressed: nn.Module) -> Option:
        owner, value = _owner(compressed, reference)
        error = value - reference.value().detach()
        score = torch.sum(self._importance()[reference.name].double() * error.double().square())
        return Option(
            form.name, stored_bytes(value, read_stored(owner, reference.owners[0].parameter)), float(score)
        )


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
