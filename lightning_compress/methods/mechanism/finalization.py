"""From a prepared module to one with plain parameters that hold what will be stored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map

from lightning_compress.counted import counted
from lightning_compress.errors import CompressionError, WeightError
from lightning_compress.metadata_names import BY_VALUE, CONVERTED
from lightning_compress.methods.mechanism.copies import copy_module
from lightning_compress.methods.mechanism.inputs import input_techniques, remove_input_technique
from lightning_compress.methods.mechanism.method import Companion
from lightning_compress.methods.mechanism.output_shifts import settle_shifts
from lightning_compress.methods.mechanism.recurrent import drop_flat_weight_hooks
from lightning_compress.methods.mechanism.stored import StoredTensor, register_version
from lightning_compress.methods.mechanism.technique import InputTechnique, Stepped, Technique
from lightning_compress.methods.mechanism.tensors import TensorReference

Example = tuple[Any, ...] | Mapping[str, Any]
"""Inputs of a module by position, or by name."""

_logger = logging.getLogger(__name__)


@torch.no_grad()
def finalize(
    module: nn.Module,
    references: Sequence[TensorReference],
    companions: Sequence[Companion],
    examples: Sequence[Example],
    *,
    rehearses: bool = False,
) -> nn.Module:
    """A copy of a prepared module whose compressed tensors are plain parameters, with metadata for the converter.

    Args:
        module: A prepared module; it is not changed.
        references: Its compressed tensors.
        companions: What else was put into it.
        examples: Inputs to show to techniques that have seen no data.
        rehearses: Whether every technique is to take the form that it will have at the end of its schedule.

    Raises:
        WeightError: A weight holds NaN or infinity.
        CompressionError: No technique at an input has seen data, and there are no examples.
    """
    _require_finite(module, "before the fit" if rehearses else "at the end of the fit")
    finalized = copy_module(module)
    for companion in companions:
        companion.remove(finalized)
    _show(finalized, examples)
    _complete_inputs(finalized)
    for reference in references:
        _settle(finalized, reference, rehearses)
    settle_shifts(finalized)
    if references:
        register_version(finalized)
    return finalized.eval()


def _require_finite(module: nn.Module, when: str) -> None:
    for name, parameter in module.named_parameters():
        if bool(torch.isfinite(parameter).all()):
            continue
        advice = (
            "Check the learning rate and the loss"
            if parameter.requires_grad
            else "It is not trained: give it finite numbers, such as -1e4 where a mask has -inf, or make it a buffer "
            "(register_buffer), which may hold infinities"
        )
        raise WeightError(
            f"the parameter {name!r} holds NaN or infinity {when}; nothing can be finalized. {advice}"
        )


def _show(finalized: nn.Module, examples: Sequence[Example]) -> None:
    """Show examples to the parts that are driven by data and have seen none."""
    blind = [part for part in finalized.modules() if isinstance(part, Stepped) and part.is_blind]
    if not blind or not examples:
        return
    for part in blind:
        part.watch(True)
    for example in examples:
        example = tree_map(lambda value: _like(value, finalized), example)
        if isinstance(example, Mapping):
            finalized(**example)
        else:
            finalized(*example)
    for part in blind:
        part.commit()
        part.watch(False)


def _complete_inputs(finalized: nn.Module) -> None:
    techniques = list(input_techniques(finalized))
    if techniques and all(technique.is_blind for _, _, technique in techniques):
        raise CompressionError(
            f"inputs cannot be compressed: none of {counted(len(techniques), 'observer')} has seen a value. "
            "Observe earlier in the fit, or train longer; where a network reads the weights of its layers and never "
            "calls them, compress its weights alone"
        )
    _tell_of_silent_layers(finalized, techniques)
    for layer, name, technique in techniques:
        if technique.is_blind:
            # The layer has never run with such an input: attention of one input has one, layers of other branches none.
            remove_input_technique(layer, name)
        else:
            technique.complete()


def _tell_of_silent_layers(
    finalized: nn.Module, techniques: Sequence[tuple[nn.Module, str, InputTechnique]]
) -> None:
    heard = {layer for layer, _, technique in techniques if not technique.is_blind}
    names = {part: name for name, part in finalized.named_modules()}
    silent = list(dict.fromkeys(names[layer] for layer, _, _ in techniques if layer not in heard))
    if silent:
        _logger.warning(
            "the inputs of %s stay as they are, because nothing called them: %s%s",
            counted(len(silent), "layer"),
            ", ".join(silent[:5]),
            ", ..." if len(silent) > 5 else "",
        )


def _settle(finalized: nn.Module, reference: TensorReference, rehearses: bool) -> None:
    owners = [(finalized.get_submodule(owner.module_name), owner.parameter) for owner in reference.owners]
    value, stored = _compressed(*owners[0], rehearses)
    parameter = nn.Parameter(value, requires_grad=value.is_floating_point())
    recurrent = reference.kind is not None and reference.kind.is_recurrent
    for owner, name in owners:
        chain = owner.parametrizations[name]  # type: ignore[index]
        assert isinstance(chain, parametrize.ParametrizationList)
        parametrize.remove_parametrizations(owner, name, leave_parametrized=not chain.is_tensor)
        setattr(owner, name, parameter)
        if not stored.is_dense:
            stored.register(owner, name, BY_VALUE if recurrent else CONVERTED)
        if recurrent:
            drop_flat_weight_hooks(owner)


def _compressed(owner: nn.Module, name: str, rehearses: bool) -> tuple[Tensor, StoredTensor]:
    chain = owner.parametrizations[name]  # type: ignore[index]
    assert isinstance(chain, parametrize.ParametrizationList)
    steps = list(chain)
    if chain.is_tensor:
        value: Tensor = chain.original.detach().clone()
    else:
        value = steps.pop(0)(*(getattr(chain, f"original{index}") for index in range(chain.ntensors)))
    stored = StoredTensor()
    for step in steps:
        if isinstance(step, Technique):
            (step.anticipate if rehearses else step.complete)(value)
            stored = step.store(stored)
        value = step(value)
    return value.detach().clone(), stored


def _like(value: Any, module: nn.Module) -> Any:
    parameter = next(module.parameters(), None)
    if not isinstance(value, Tensor) or parameter is None:
        return value
    return value.to(parameter.device, parameter.dtype if value.is_floating_point() else value.dtype)
