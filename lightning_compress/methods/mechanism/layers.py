"""Which layers hold weights that can be compressed, and how each of these weights is laid out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.utils import parametrize


@dataclass(frozen=True)
class Layout:
    """What the axes of a weight mean.

    Attributes:
        output_axis: The axis of the output channels: each has a scale of its own where scales are "per channel".
        input_axis: The axis of the input channels.
    """

    output_axis: int = 0
    input_axis: int = 1


@dataclass(frozen=True)
class LayerKind:
    """A type of layer with weights.

    Attributes:
        name: Its name in configurations by type ("Conv2d").
        layout: How its weights are laid out.
        weights: Names of the parameters that are its weights.
        inputs: Names of the inputs that may come in as integers, in the order of its forward: Core ML computes with
            integers in convolutions and products, not in look-ups and recurrences.
        is_recurrent: Whether the layer reads its weights from a list that it made beforehand.
    """

    name: str
    weights: Callable[[nn.Module], Iterator[str]]
    layout: Layout = Layout()
    inputs: tuple[str, ...] = ("input",)
    is_recurrent: bool = False


def _weight(module: nn.Module) -> Iterator[str]:
    yield "weight"


def _attention_weights(module: nn.Module) -> Iterator[str]:
    # The output projection is a Linear of its own.
    if getattr(module, "_qkv_same_embed_dim", True):
        yield "in_proj_weight"
    else:
        yield from ("q_proj_weight", "k_proj_weight", "v_proj_weight")


def _recurrent_weights(module: nn.Module) -> Iterator[str]:
    for name in vars(module).get("_flat_weights_names", ()):
        if name.startswith("weight_"):
            yield name


def _cell_weights(module: nn.Module) -> Iterator[str]:
    yield from ("weight_ih", "weight_hh")


_TRANSPOSED = Layout(output_axis=1, input_axis=0)

_KINDS: Mapping[type[nn.Module], LayerKind] = {
    nn.Linear: LayerKind("Linear", _weight),
    nn.Conv1d: LayerKind("Conv1d", _weight),
    nn.Conv2d: LayerKind("Conv2d", _weight),
    nn.Conv3d: LayerKind("Conv3d", _weight),
    nn.ConvTranspose1d: LayerKind("ConvTranspose1d", _weight, _TRANSPOSED),
    nn.ConvTranspose2d: LayerKind("ConvTranspose2d", _weight, _TRANSPOSED),
    nn.ConvTranspose3d: LayerKind("ConvTranspose3d", _weight, _TRANSPOSED),
    nn.Embedding: LayerKind("Embedding", _weight, inputs=()),
    nn.EmbeddingBag: LayerKind("EmbeddingBag", _weight, inputs=()),
    nn.MultiheadAttention: LayerKind(
        "MultiheadAttention", _attention_weights, inputs=("query", "key", "value")
    ),
    nn.LSTM: LayerKind("LSTM", _recurrent_weights, inputs=(), is_recurrent=True),
    nn.GRU: LayerKind("GRU", _recurrent_weights, inputs=(), is_recurrent=True),
    nn.RNN: LayerKind("RNN", _recurrent_weights, inputs=(), is_recurrent=True),
    nn.LSTMCell: LayerKind("LSTMCell", _cell_weights, inputs=()),
    nn.GRUCell: LayerKind("GRUCell", _cell_weights, inputs=()),
    nn.RNNCell: LayerKind("RNNCell", _cell_weights, inputs=()),
}

_TRANSFORMERS_LINEAR = LayerKind("Conv1D", _weight, _TRANSPOSED)
"""`transformers.pytorch_utils.Conv1D`, GPT-2's linear layer, with inputs along its first axis."""

KIND_NAMES = (*(kind.name for kind in _KINDS.values()), _TRANSFORMERS_LINEAR.name)
"""The types that configurations by type may name without further ado."""


def layer_kind(module: nn.Module) -> LayerKind | None:
    """The kind of a layer, or of the layer that its class derives from; None for any other module."""
    for ancestor in type(module).__mro__:
        kind = _KINDS.get(ancestor)
        if kind is not None:
            return kind
        # Known by its name and form: transformers need not be installed, and is slow to import.
        if ancestor.__name__ == _TRANSFORMERS_LINEAR.name and _is_transformers_linear(module):
            return _TRANSFORMERS_LINEAR
    return None


def type_names(module: nn.Module) -> list[str]:
    """Every name by which a configuration by type can mean a module, the most specific first.

    The names of its class and of those that it derives from, bare ("Conv2d") and qualified ("torch.nn.Conv2d",
    "timm.layers.conv2d_same.Conv2dSame").
    """
    names = []
    for ancestor in type(module).__mro__:
        if ancestor in (nn.Module, object) or (ancestor.__module__ == parametrize.__name__):
            continue
        names += [ancestor.__qualname__, f"{ancestor.__module__}.{ancestor.__qualname__}"]
        if ancestor.__module__.startswith("torch.nn."):
            names.append(f"torch.nn.{ancestor.__qualname__}")
    return names


def _is_transformers_linear(module: nn.Module) -> bool:
    weight: Any = getattr(module, "weight", None)
    return hasattr(module, "nf") and getattr(weight, "dim", int)() == 2 and weight.shape[1] == module.nf
