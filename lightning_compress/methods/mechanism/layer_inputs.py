"""What a layer multiplies its weight by: rows of inputs, patches of a convolution, what comes into attention."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lightning_compress.methods.mechanism.layers import layer_kind
from lightning_compress.methods.mechanism.matrix_form import MatrixForm
from lightning_compress.methods.mechanism.tensors import Owner, TensorReference

Call = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Arguments of a layer's forward by position and by name."""

Gather = Callable[[nn.Module, Call, int], Tensor | None]
"""From a layer, a call of it and a number: at most so many rows of inputs, (G, rows, d); None where there are none."""

_PROJECTIONS = {"q_proj_weight": "query", "k_proj_weight": "key", "v_proj_weight": "value"}

_CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")
_TRANSPOSED = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")


def matrix_form(reference: TensorReference) -> MatrixForm | None:
    """How a weight is a matrix; None where nothing multiplies inputs by it, as in embeddings and recurrent layers."""
    owner = next((owner for owner in reference.owners if gather_of(owner) is not None), None)
    kind = None if owner is None else layer_kind(owner.part_of or owner.module)
    if owner is None or kind is None or kind.layout != reference.layout:
        return None
    groups = 1
    if kind.name in (*_CONVOLUTIONS, *_TRANSPOSED):
        groups = int(getattr(owner.module, "groups", 1))
    elif owner.parameter == "in_proj_weight":
        groups = 3
    return MatrixForm(reference.shape, kind.layout, groups)


def gather_of(owner: Owner) -> tuple[nn.Module, Gather] | None:
    """How the inputs of a weight are found: the layer whose calls tell, and how; None for layers that tell none."""
    if isinstance(owner.part_of, nn.MultiheadAttention):
        return owner.part_of, _heads
    if isinstance(owner.module, nn.MultiheadAttention):
        if owner.parameter == "in_proj_weight":
            return owner.module, _three_inputs
        return owner.module, _projected(_PROJECTIONS[owner.parameter])
    kind = layer_kind(owner.module)
    if kind is None or not kind.inputs or owner.parameter != "weight":
        return None
    if kind.name in _CONVOLUTIONS:
        return owner.module, _patches
    if kind.name in _TRANSPOSED:
        return owner.module, _transposed_patches
    return owner.module, _rows


def _argument(layer: nn.Module, call: Call, name: str = "input") -> Tensor | None:
    arguments, keywords = call
    kind = layer_kind(layer)
    assert kind is not None
    index = kind.inputs.index(name)
    value = arguments[index] if index < len(arguments) else keywords.get(name)
    if value is None and index == 0:
        # Layers that others have derived may name theirs in another way.
        value = next((entry for entry in keywords.values() if isinstance(entry, Tensor)), None)
    return value if isinstance(value, Tensor) and value.numel() else None


def _rows(layer: nn.Module, call: Call, most: int) -> Tensor | None:
    value = _argument(layer, call)
    return None if value is None else _some_rows(value, most)


def _some_rows(value: Tensor, most: int) -> Tensor:
    rows = value.reshape(-1, value.shape[-1])
    return rows[_some(rows.shape[0], most, rows.device)].unsqueeze(0)


def _three_inputs(layer: nn.Module, call: Call, most: int) -> Tensor | None:
    inputs = [_argument(layer, call, name) for name in ("query", "key", "value")]
    if any(value is None for value in inputs):
        return None
    rows = [_some_rows(value, most) for value in inputs if value is not None]
    if len({part.shape for part in rows}) > 1:
        # Of queries and keys of different numbers the same number counts; which rows these are does not matter.
        least = min(part.shape[1] for part in rows)
        rows = [part[:, :least] for part in rows]
    return torch.cat(rows)


def _projected(name: str) -> Gather:
    def gather(layer: nn.Module, call: Call, most: int) -> Tensor | None:
        value = _argument(layer, call, name)
        return None if value is None else _some_rows(value, most)

    return gather


def _heads(layer: nn.Module, call: Call, most: int) -> Tensor | None:
    """What comes into attention's output projection, which attention computes with and never calls."""
    arguments, keywords = call
    with _WithoutOutputProjection():
        output = layer.forward(*arguments, **keywords)[0]
    return _some_rows(output, most)


class _WithoutOutputProjection(TorchFunctionMode):
    """Attention whose output projection changes nothing."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        if func is functional.multi_head_attention_forward:
            given = _SIGNATURE.bind(*args, **keywords)
            weight = given.arguments["out_proj_weight"]
            given.arguments["out_proj_weight"] = torch.eye(
                len(weight), dtype=weight.dtype, device=weight.device
            )
            given.arguments["out_proj_bias"] = None
            return func(*given.args, **given.kwargs)
        return func(*args, **keywords)


_SIGNATURE = inspect.signature(functional.multi_head_attention_forward)


def _patches(layer: nn.Module, call: Call, most: int) -> Tensor | None:
    convolution: Any = layer
    value = _argument(layer, call)
    if value is None:
        return None
    value = _batched(value, len(convolution.kernel_size))
    mode = convolution.padding_mode
    padding = convolution._reversed_padding_repeated_twice
    value = functional.pad(value, padding, mode="constant" if mode == "zeros" else mode)
    return _unfolded(
        value, convolution.kernel_size, convolution.stride, convolution.dilation, convolution, most
    )


def _transposed_patches(layer: nn.Module, call: Call, most: int) -> Tensor | None:
    """Patches of the inputs with zeros between them: of these, a transposed convolution is one of a turned kernel."""
    convolution: Any = layer
    value = _argument(layer, call)
    if value is None:
        return None
    value = _batched(value, len(convolution.kernel_size))
    spread = value.new_zeros(
        *value.shape[:2],
        *((n - 1) * step + 1 for n, step in zip(value.shape[2:], convolution.stride, strict=True)),
    )
    spread[(slice(None), slice(None), *(slice(None, None, step) for step in convolution.stride))] = value
    padding: list[int] = []
    for kernel, dilation, before, after in zip(
        convolution.kernel_size,
        convolution.dilation,
        convolution.padding,
        convolution.output_padding,
        strict=True,
    ):
        edge = dilation * (kernel - 1) - before
        padding = [edge, edge + after, *padding]
    spread = functional.pad(spread, padding)
    ones = (1,) * len(convolution.kernel_size)
    return _unfolded(
        spread, convolution.kernel_size, ones, convolution.dilation, convolution, most, turned=True
    )


def _batched(value: Tensor, dimensions: int) -> Tensor:
    return value.unsqueeze(0) if value.dim() == dimensions + 1 else value


def _unfolded(
    value: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    convolution: Any,
    most: int,
    *,
    turned: bool = False,
) -> Tensor | None:
    """Patches, (G, places, channels of a group x kernel)."""
    groups = convolution.groups
    windows = value.reshape(value.shape[0], groups, -1, *value.shape[2:])
    for axis, (size, step, spacing) in enumerate(zip(kernel, stride, dilation, strict=True)):
        windows = windows.unfold(3 + axis, spacing * (size - 1) + 1, step)[..., ::spacing]
    rank = len(kernel)
    # Groups and channels last but for the kernel: places, which are samples and positions, are picked before copying.
    places = windows.permute(0, *range(3, 3 + rank), 1, 2, *range(3 + rank, 3 + 2 * rank))
    counts = places.shape[: 1 + rank]
    chosen = _some(math.prod(counts), most, value.device)
    if not chosen.numel():
        return None
    patches: Tensor = places[torch.unravel_index(chosen, counts)]
    if turned:
        patches = patches.flip(tuple(range(3, 3 + rank)))
    return patches.flatten(2).transpose(0, 1)


def _some(count: int, most: int, device: torch.device) -> Tensor:
    """Indices of at most `most` of `count` rows, drawn the same way each time."""
    if count <= most:
        return torch.arange(count, device=device)
    generator = torch.Generator().manual_seed(count)
    return torch.randperm(count, generator=generator)[:most].sort().values.to(device)
