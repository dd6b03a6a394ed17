"""Reductions over axes, and the positions of extremes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_compress.runtime.batching import away_from_axis_0
from lightning_compress.runtime.registry import register


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.mean(x if x.is_floating_point() else x.to(torch.float32), axes, keep)


_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "reduce_l1_norm": lambda x, axes, keep: torch.sum(torch.abs(x), axes, keep),
    "reduce_l2_norm": lambda x, axes, keep: torch.sqrt(torch.sum(torch.square(x), axes, keep)),
    "reduce_log_sum": lambda x, axes, keep: torch.log(torch.sum(x, axes, keep)),
    "reduce_log_sum_exp": lambda x, axes, keep: torch.logsumexp(x, axes, keep),
    "reduce_max": lambda x, axes, keep: torch.amax(x, axes, keep),
    "reduce_mean": _mean,
    "reduce_min": lambda x, axes, keep: torch.amin(x, axes, keep),
    "reduce_prod": _product,
    "reduce_sum": lambda x, axes, keep: torch.sum(x, axes, keep),
    "reduce_sum_square": lambda x, axes, keep: torch.sum(torch.square(x), axes, keep),
}


class _Reduction:
    """A reduction under MIL's parameter names; a class, so that programs can be pickled."""

    def __init__(self, op_type: str) -> None:
        self.op_type = op_type

    def __call__(self, x: Tensor, axes: Sequence[int] | None = None, keep_dims: bool = False) -> Tensor:
        every = [axis % x.dim() for axis in (range(x.dim()) if axes is None else axes)]
        return _REDUCTIONS[self.op_type](x, every, keep_dims).to(x.dtype)


for _op_type in _REDUCTIONS:
    register(
        _op_type,
        tensors="x",
        samplewise=away_from_axis_0("x", "axes"),
        exact=_op_type in ("reduce_max", "reduce_min"),
    )(_Reduction(_op_type))


@register("reduce_argmax", tensors="x", samplewise=away_from_axis_0("x", "axis", -1))
def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """Position of the largest value along an axis."""
    return torch.argmax(x, axis, keep_dims).to(torch.int32)


@register("reduce_argmin", tensors="x", samplewise=away_from_axis_0("x", "axis", -1))
def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """Position of the smallest value along an axis."""
    return torch.argmin(x, axis, keep_dims).to(torch.int32)
