"""What rounding the inputs of a layer to int8 costs the outputs, layer by layer.

As for weights (`lightning_compress.explore.projection`): the squared gradient of a random projection of the outputs by
each input, times the square of its rounding error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.explore.projection import OutputProjection
from lightning_compress.methods.mechanism.agreement import Call
from lightning_compress.methods.mechanism.layers import layer_kind
from lightning_compress.methods.mechanism.tensors import TensorReference

_STEPS = 255


def input_scores(
    network: nn.Module,
    references: Sequence[TensorReference],
    projection: OutputProjection,
    calls: Sequence[Call],
) -> dict[str, float]:
    """How far the outputs are expected to move where the inputs of one layer are rounded to int8.

    Ranges are those of the calls, one for each layer, as a quantizer that was trained would know them.

    Args:
        network: The one that the projection is of.
        references: Its tensors.
        projection: Of its outputs.
        calls: Examples.

    Returns:
        By name of the tensor of the layer; layers without inputs that Core ML computes with in integers are left out,
        and so are those that are not called.
    """
    layers = {
        reference.name: reference.owners[0].module
        for reference in references
        if (kind := layer_kind(reference.owners[0].module)) is not None and kind.inputs
    }
    ranges: dict[nn.Module, tuple[float, float]] = {}
    with _watched(layers, _ranging(ranges)), torch.no_grad():
        for call in calls:
            projection(call)
    scores = dict.fromkeys(layers, 0.0)
    names = {layer: name for name, layer in layers.items()}
    for call in calls:
        seen, value = _seen(layers, projection, call)
        if not seen:
            continue
        gradients = torch.autograd.grad(value, [tensor for _, tensor in seen], allow_unused=True)
        for (layer, tensor), gradient in zip(seen, gradients, strict=True):
            if gradient is not None:
                error = _rounding_error(tensor.detach(), ranges[layer])
                scores[names[layer]] += float((gradient.double() * error).square().sum()) / len(calls)
    return {name: score for name, score in scores.items() if layers[name] in ranges}


def _seen(
    layers: Mapping[str, nn.Module], projection: OutputProjection, call: Call
) -> tuple[list[tuple[nn.Module, Tensor]], Tensor]:
    """What comes into each layer in a call, and the projection of what comes out in the end."""
    seen: list[tuple[nn.Module, Tensor]] = []
    with _watched(layers, lambda layer, value: seen.append((layer, value))), torch.enable_grad():
        return seen, projection(call)


def _rounding_error(values: Tensor, bounds: tuple[float, float]) -> Tensor:
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    scale = max((high - low) / _STEPS, 1e-12)
    zero = round(-low / scale)
    rounded = torch.clamp(torch.round(values / scale) + zero, 0, _STEPS)
    return (rounded - zero) * scale - values


def _ranging(ranges: dict[nn.Module, tuple[float, float]]) -> Callable[[nn.Module, Tensor], None]:
    def widen(layer: nn.Module, value: Tensor) -> None:
        low, high = (float(bound) for bound in torch.aminmax(value))
        before = ranges.get(layer, (low, high))
        ranges[layer] = min(before[0], low), max(before[1], high)

    return widen


@contextmanager
def _watched(layers: Mapping[str, nn.Module], show: Callable[[nn.Module, Tensor], None]) -> Iterator[None]:
    """Show the first input of each call of some layers while the block runs."""

    def look(layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if not arguments or not isinstance(arguments[0], Tensor) or not arguments[0].is_floating_point():
            return arguments
        value = arguments[0]
        # One of its own, so that its gradient comes through this layer alone, whoever else reads the value.
        own = value.view_as(value) if value.requires_grad else value.detach().requires_grad_(True)
        show(layer, own)
        return (own, *arguments[1:])

    handles = [layer.register_forward_pre_hook(look) for layer in dict.fromkeys(layers.values())]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
