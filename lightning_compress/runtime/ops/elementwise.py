"""Elementwise ops of one and of two operands, comparisons, casts and selection."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_compress.runtime.batching import elementwise
from lightning_compress.runtime.registry import register

_INTEGER_TYPES = {
    "bool": torch.bool,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int32,
    "uint16": torch.int32,
    "int32": torch.int32,
    "int64": torch.int32,
}

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "floor": torch.floor,
    "round": torch.round,
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "floor_div": torch.floor_divide,
    "mod": torch.remainder,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}


class _Unary:
    """A torch function of one tensor under MIL's parameter name; a class, so that programs can be pickled."""

    def __init__(self, op_type: str) -> None:
        self.op_type = op_type

    def __call__(self, x: Tensor) -> Tensor:
        return _UNARY[self.op_type](x)


class _Binary:
    """A torch function of two tensors under MIL's parameter names."""

    def __init__(self, op_type: str) -> None:
        self.op_type = op_type

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        if x.device != y.device and x.dim() and y.dim():
            # Shapes are computed on the CPU; whatever meets one of them is as small.
            x, y = x.cpu(), y.cpu()
        return _BINARY[self.op_type](x, y)


for _op_type in _UNARY:
    register(_op_type, tensors="x", samplewise=elementwise)(_Unary(_op_type))
for _op_type in _BINARY:
    register(_op_type, tensors="x y", samplewise=elementwise, new_memory=True)(_Binary(_op_type))


@register("real_div", tensors="x y", samplewise=elementwise, new_memory=True)
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """`x / y`; integers are divided towards zero."""
    if x.is_floating_point():
        return torch.div(x, y)
    return torch.div(x, y, rounding_mode="trunc")


@register("exp2", tensors="x", samplewise=elementwise)
def exp2(x: Tensor) -> Tensor:
    """`2 ** x`, in the type of `x`."""
    return torch.exp2(x).to(x.dtype)


@register("logical_not", tensors="x", samplewise=elementwise)
def logical_not(x: Tensor) -> Tensor:
    """Whether `x` is zero, in the type of `x`."""
    return torch.logical_not(x).to(x.dtype)


@register("inverse", tensors="x", samplewise=elementwise)
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    """`1 / (x + epsilon)`."""
    return torch.reciprocal(x + epsilon)


@register("log", tensors="x", samplewise=elementwise)
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    """`log(x + epsilon)`."""
    return torch.log(x + epsilon)


@register("rsqrt", tensors="x", samplewise=elementwise)
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """`1 / sqrt(x + epsilon)`."""
    return torch.rsqrt(x + epsilon)


@register("threshold", tensors="x", samplewise=elementwise, exact=True)
def threshold(x: Tensor, alpha: float) -> Tensor:
    """`max(x, alpha)`."""
    return torch.clamp(x, min=alpha)


@register("clip", tensors="x", samplewise=elementwise, exact=True, new_memory=True)
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """`x` brought into [alpha, beta]."""
    return torch.clamp(x, alpha, beta)


@register("identity", tensors="x", samplewise=elementwise, exact=True)
def identity(x: Tensor) -> Tensor:
    """`x`."""
    return x


@register("cast", tensors="x", samplewise=elementwise)
def cast(x: Tensor, dtype: str) -> Tensor:
    """`x` in another type.

    Between floating-point types there is nothing to do: the runtime's arithmetic gives results their type.
    """
    if dtype in _INTEGER_TYPES:
        return x.to(_INTEGER_TYPES[dtype])
    return x if x.is_floating_point() else x.to(torch.float32)


@register("select", tensors="cond a b", samplewise=elementwise, exact=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` where `cond` is true, else `b`."""
    return torch.where(cond, a, b)
