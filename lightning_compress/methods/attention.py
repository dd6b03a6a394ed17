"""Attention with rounded inputs inside: of its output projection, and of its two products where asked.

`torch.nn.MultiheadAttention` computes both in one function, and never calls its output projection. While such a layer
runs, a `TorchFunctionMode` sees every function of torch that is called, and rounds what goes into these.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lightning_compress.methods.activations import Activation
from lightning_compress.methods.mechanism.inputs import input_techniques

OPERANDS = ("query", "key", "weights", "value")
"""The operands of the two products: query with key, and the weights of attention with value."""

_PRODUCTS = "attention_products"
"""Name of the module that holds the techniques on operands."""

_PAIR = {torch.bmm: 0, torch.matmul: 0, torch.Tensor.bmm: 0, torch.Tensor.matmul: 0, torch.baddbmm: 1}
"""Functions that multiply matrices, with the place of their first operand."""
_PAIR[torch.Tensor.__matmul__] = 0


class _Operands(nn.Module):
    """Holds the techniques on the operands of a layer, where finalizing finds them."""

    def __init__(self, techniques: Mapping[str, Activation]) -> None:
        super().__init__()
        self.compressed_inputs = nn.ModuleDict(techniques)


def round_within(layer: nn.Module, operands: Mapping[str, Activation] | None = None) -> None:
    """Let a layer's attention round the input of its output projection, and the operands of its products.

    Args:
        layer: Attention of torch, or a module that calls `scaled_dot_product_attention` or multiplies matrices, first
            query with key, then weights with value.
        operands: Techniques by the names in `OPERANDS`; None leaves the products as they are.
    """
    if operands is not None:
        layer.add_module(_PRODUCTS, _Operands(operands))
    layer.register_forward_pre_hook(_enter)
    layer.register_forward_hook(_leave, always_call=True)


def _enter(layer: nn.Module, _: Any) -> None:
    mode = _Rounding(layer)
    mode.__enter__()  # type: ignore[no-untyped-call]
    layer.__dict__.setdefault("_rounding_modes", []).append(mode)


def _leave(layer: nn.Module, _: Any, __: Any) -> None:
    modes = layer.__dict__.get("_rounding_modes")
    if modes:
        modes.pop().__exit__(None, None, None)


class _Rounding(TorchFunctionMode):
    """Rounds within one forward pass of a layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        projection = layer.out_proj if isinstance(layer, nn.MultiheadAttention) else None
        self._projection = None if projection is None else _single(input_techniques(projection))
        self._projection_weight: Tensor | None = None
        held = layer._modules.get(_PRODUCTS)
        self._operands = (
            {} if held is None else {name: technique for _, name, technique in input_techniques(held)}
        )
        self._products = 0
        self._learned = (
            [
                technique.quantizer
                for _, _, technique in input_techniques(layer)
                if isinstance(technique, Activation) and technique.quantizer.scale is not None
            ]
            if layer.training and torch.is_grad_enabled()
            else []
        )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        if func is functional.multi_head_attention_forward:
            given = _SIGNATURE.bind(*args, **keywords).arguments
            self._projection_weight = given["out_proj_weight"]
            # Seen from within, function by function; torch disables a mode while it handles a call.
            with self:
                output, weights = _attention_body(*args, **keywords)
            for quantizer in self._learned:
                # Of inputs that are one and the same the first technique rounds, and data-parallel training waits for
                # the gradients of the others.
                output = output + quantizer.unused().to(output.dtype)
            return output, weights
        if func is functional.linear and self._projection is not None and len(args) > 1:
            if args[1] is self._projection_weight:
                args = (self._projection(args[0]), *args[1:])
        elif self._operands and func is functional.scaled_dot_product_attention:
            return self._attend(*args, **keywords)
        elif self._operands and func in _PAIR and len(args) > _PAIR[func] + 1:
            place = _PAIR[func]
            first, second = ("query", "key") if self._products % 2 == 0 else ("weights", "value")
            self._products += 1
            rounded = (self._round(first, args[place]), self._round(second, args[place + 1]))
            args = (*args[:place], *rounded, *args[place + 2 :])
        return func(*args, **keywords)

    def _round(self, name: str, value: Tensor) -> Tensor:
        technique = self._operands.get(name)
        if technique is None:
            return value
        rounded: Tensor = technique(value)
        return rounded

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """What `scaled_dot_product_attention` computes, with rounded operands."""
        if enable_gqa:
            repeats = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        scores = self._round("query", query * scale) @ self._round("key", key).transpose(-2, -1)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(attn_mask.logical_not(), -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = self._round("weights", scores.softmax(-1))
        return functional.dropout(weights, dropout_p) @ self._round("value", value)


def _single(found: Iterable[tuple[nn.Module, str, Any]]) -> Any:
    return next((technique for _, _, technique in found), None)


def _is_overridden(_: Any) -> bool:
    return False


_SIGNATURE = inspect.signature(functional.multi_head_attention_forward)

_attention_body = types.FunctionType(
    # The same function, without its first question whether someone wants to handle the call as a whole.
    functional.multi_head_attention_forward.__code__,
    {**vars(functional), "has_torch_function": _is_overridden},
    argdefs=functional.multi_head_attention_forward.__defaults__,
)
_attention_body.__kwdefaults__ = functional.multi_head_attention_forward.__kwdefaults__
