"""Ways to bring tensors of a network into forms without training: by values, by importance, and by error feedback."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_compress.explore.forms import Form, methods_of
from lightning_compress.methods import GPTQ, GPTQPalettization, SensitivePalettization
from lightning_compress.methods.mechanism.agreement import Call
from lightning_compress.methods.mechanism.calibration import calibrate
from lightning_compress.methods.mechanism.copies import copy_module
from lightning_compress.methods.mechanism.method import Method
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.mechanism.tensors import find_tensors
from lightning_compress.package.targets import Capability


@dataclass(frozen=True)
class Compressed:
    """A finalized copy of a network.

    Attributes:
        network: The copy.
        capabilities: What a package must be able to hold.
    """

    network: nn.Module
    capabilities: Collection[Capability] = ()


Compressing = Callable[[nn.Module, Mapping[str, Form]], Compressed]
"""Brings tensors of a network, by name, into forms."""


def compressed_after_training(network: nn.Module, forms: Mapping[str, Form]) -> Compressed:
    """A network with tensors in forms, by what their values alone tell."""
    if not forms:
        return Compressed(copy_module(network).eval())
    prepared = PreparedModule(copy_module(network), methods_of(forms))
    return Compressed(prepared.finalize(rehearses=True), prepared.capabilities)


def compressed_by_data(
    network: nn.Module, forms: Mapping[str, Form], importance: Mapping[str, Tensor]
) -> Compressed:
    """The same, with palettes that are nearest to the weights that matter most.

    Args:
        network: The network.
        forms: By name of the tensor.
        importance: By name of the tensor, of its elements.
    """
    methods = _by_importance(forms)
    if not any(isinstance(method, SensitivePalettization) for method in methods):
        return compressed_after_training(network, forms)
    prepared = PreparedModule(copy_module(network), methods)
    calibrate(prepared, importance=importance)
    return Compressed(prepared.finalize(rehearses=True), prepared.capabilities)


def compressed_with_feedback(
    network: nn.Module, forms: Mapping[str, Form], importance: Mapping[str, Tensor], calls: Sequence[Call]
) -> Compressed:
    """The same, with the error of each column made good for in the columns after it, by what comes into the layers.

    Args:
        network: The network.
        forms: By name of the tensor.
        importance: By name of the tensor, of its elements.
        calls: What the network is called with on data.
    """
    keys: dict[type[Method], dict[str, Any]] = {GPTQPalettization: {}, GPTQ: {}}
    for name, form in forms.items():
        if form.sparsity:
            continue
        if form.bits is not None:
            keys[GPTQPalettization][name] = dict(form.keys["DKMPalettization"])
        elif form.integers is not None:
            keys[GPTQ][name] = {"weight_dtype": f"int{form.integers}", "block_size": form.block}
    methods: list[Method] = []
    corrected: set[str] = set()
    references = {reference.name: reference for reference in find_tensors(network)}
    for kind, configurations in keys.items():
        # Embeddings and recurrent layers have no inputs that are multiplied; they are compressed as without feedback.
        taken = {
            name: configuration
            for name, configuration in configurations.items()
            if not isinstance(
                kind(module_name_configs={re.escape(name): configuration}).decide(references[name]), str
            )
        }
        if taken:
            methods.append(kind(module_name_configs={re.escape(name): keys for name, keys in taken.items()}))
            corrected |= taken.keys()
    if not corrected:
        return compressed_by_data(network, forms, importance)
    methods += _by_importance({name: form for name, form in forms.items() if name not in corrected})
    prepared = PreparedModule(copy_module(network), methods)

    def run(call: Call) -> None:
        prepared.module(*call.arguments, **call.keywords)

    calibrate(prepared, run=run, batches=calls, importance=importance)
    return Compressed(prepared.finalize(rehearses=True), prepared.capabilities)


def _by_importance(forms: Mapping[str, Form]) -> list[Method]:
    """Methods with sensitive palettes where a form is a palette alone, and by values for all others."""
    weighted = {name: form for name, form in forms.items() if form.bits is not None and not form.sparsity}
    palettes = {re.escape(name): dict(form.keys["DKMPalettization"]) for name, form in weighted.items()}
    others = methods_of({name: form for name, form in forms.items() if name not in weighted})
    return [SensitivePalettization(module_name_configs=palettes), *others] if weighted else others
