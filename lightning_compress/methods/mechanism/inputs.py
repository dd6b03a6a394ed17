"""Techniques at the inputs of layers, by hooks before their forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.methods.mechanism.layers import layer_kind
from lightning_compress.methods.mechanism.plan import PlannedLayer
from lightning_compress.methods.mechanism.technique import InputTechnique

_INPUTS = "compressed_inputs"
"""Name of the module that holds a layer's techniques, by the names of its inputs."""


def compress_inputs(layer: PlannedLayer) -> dict[str, InputTechnique]:
    """Put a technique at each input of a layer that it may have one at.

    Returns:
        The techniques, by dotted name of the layer and the name of the input.
    """
    device = next((parameter.device for parameter in layer.module.parameters()), None)
    techniques = {}
    for name in layer.kind.inputs:
        technique = layer.method.input_technique(layer.name, layer.kind, layer.keys)
        assert technique is not None
        techniques[name] = technique.to(device)
    layer.module.add_module(_INPUTS, nn.ModuleDict(techniques))
    layer.module.register_forward_pre_hook(_compress, with_kwargs=True)
    return {f"{layer.name}.{name}".lstrip("."): technique for name, technique in techniques.items()}


def input_techniques(module: nn.Module) -> Iterator[tuple[nn.Module, str, InputTechnique]]:
    """Every technique at an input: the layer, the input's name, the technique."""
    for part in module.modules():
        held = getattr(part, _INPUTS, None)
        if isinstance(held, nn.ModuleDict):
            for name, technique in held.items():
                assert isinstance(technique, InputTechnique)
                yield part, name, technique


def remove_input_technique(layer: nn.Module, name: str) -> None:
    """Leave an input of a layer as it is from now on."""
    held = layer._modules[_INPUTS]
    assert isinstance(held, nn.ModuleDict)
    del held[name]
    if not held:
        del layer._modules[_INPUTS]
        for key, hook in list(layer._forward_pre_hooks.items()):
            if hook is _compress:
                del layer._forward_pre_hooks[key]
                layer._forward_pre_hooks_with_kwargs.pop(key, None)


def _compress(
    layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    held = layer._modules[_INPUTS]
    kind = layer_kind(layer)
    assert isinstance(held, nn.ModuleDict)
    assert kind is not None
    positional = list(arguments)
    # Attention looks at whether its inputs are one and the same; so they stay.
    done: dict[int, Tensor] = {}
    for index, name in enumerate(kind.inputs):
        value = positional[index] if index < len(positional) else keywords.get(name)
        if not (isinstance(value, Tensor) and value.is_floating_point()) or value.layout != torch.strided:
            continue
        if id(value) not in done:
            if name not in held:
                continue
            done[id(value)] = held[name](value)
        if index < len(positional):
            positional[index] = done[id(value)]
        else:
            keywords[name] = done[id(value)]
    return tuple(positional), keywords
