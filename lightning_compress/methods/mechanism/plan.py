"""What will be done to which tensor, and why others stay as they are: decided before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from lightning_compress.methods.mechanism.configuration import Keys
from lightning_compress.methods.mechanism.layers import LayerKind, layer_kind
from lightning_compress.methods.mechanism.method import Method
from lightning_compress.methods.mechanism.named_parts import check_names, without_effect
from lightning_compress.methods.mechanism.tensors import (
    TensorReference,
    enclosing_modules,
    find_tensors,
    refuse_hooked_weights,
    scripted_modules,
)


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor, and what each method does to it.

    Attributes:
        reference: The tensor.
        keys: The keys of each method that takes it.
        reasons: Why each of the others leaves it.
    """

    reference: TensorReference
    keys: Mapping[Method, Keys] = field(default_factory=dict)
    reasons: Mapping[Method, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedLayer:
    """A layer whose inputs are compressed."""

    name: str
    module: nn.Module
    kind: LayerKind
    method: Method
    keys: Keys


@dataclass(frozen=True)
class Plan:
    """What will be done to a module.

    Attributes:
        tensors: Its parameters of two or more dimensions.
        layers: The layers whose inputs are compressed.
        unreachable: Names of modules whose parameters cannot be reached.
        without_effect: Parts of configurations that are valid and mean nothing in this module, each with why.
    """

    tensors: Sequence[PlannedTensor]
    layers: Sequence[PlannedLayer]
    unreachable: Sequence[str] = ()
    without_effect: Sequence[str] = ()


def make_plan(module: nn.Module, methods: Sequence[Method]) -> Plan:
    """Match the configurations of `methods` against the tensors and layers of `module`.

    Raises:
        ModuleNotFoundInModelError: A name or a type matches nothing.
        ConfigurationError: Nothing is left to compress, or a tensor cannot be compressed as asked.
        WeightError: A weight holds NaN or infinity.
    """
    if methods:
        refuse_hooked_weights(module)
    references = find_tensors(module)
    for method in methods:
        check_names(method.configuration, module, references)
    tensors = [_planned(reference, methods) for reference in references]
    layers = [layer for method in methods for layer in _layers(module, method)]
    for method in methods:
        method.check_plan(
            [tensor.reference for tensor in tensors if method in tensor.keys],
            [layer.name for layer in layers if layer.method is method],
        )
    idle = [part for method in methods for part in without_effect(method.configuration, module, references)]
    return Plan(tensors, layers, scripted_modules(module), idle)


def _planned(reference: TensorReference, methods: Sequence[Method]) -> PlannedTensor:
    taken: dict[Method, Keys] = {}
    reasons: dict[Method, str] = {}
    for method in methods:
        decision = method.decide(reference)
        if isinstance(decision, str):
            reasons[method] = decision
        else:
            taken[method] = decision
    return PlannedTensor(reference, taken, reasons)


def _layers(module: nn.Module, method: Method) -> list[PlannedLayer]:
    names: dict[nn.Module, list[str]] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        if "parametrizations" not in name.split("."):
            names.setdefault(part, []).append(name)
    found = []
    modules = dict(module.named_modules(remove_duplicate=False))
    for part, aliases in names.items():
        kind = layer_kind(part)
        if kind is None or not kind.inputs or isinstance(part, torch.jit.ScriptModule):
            continue
        keys = method.configuration.match_layer(aliases, part, enclosing_modules(aliases, modules)).keys
        if keys is not None and method.input_technique(aliases[0], kind, keys) is not None:
            found.append(PlannedLayer(aliases[0], part, kind, method, keys))
    return found
