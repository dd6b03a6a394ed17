"""Converters for torch operations that coremltools 9.0 has none for.

`tests/coreml/test_torch_ops.py` fails when coremltools gets one of its own, so that ours can go.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from coremltools.converters.mil.frontend.torch.ops import _get_inputs
from coremltools.converters.mil.frontend.torch.torch_op_registry import (
    _TORCH_OPS_REGISTRY,
    register_torch_op,
)
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - coremltools' own name for it
from coremltools.converters.mil.mil import types

from lightning_compress.errors import CompressionError

_TORCH_TYPES = {torch.bool: 11, torch.int32: 3, torch.int64: 4, torch.float32: 6, torch.float16: 5}
_BOOLEAN, _INTEGERS = _TORCH_TYPES[torch.bool], (0, 1, 2, 3, 4)
"""Numbers of types as torch's graphs hold them."""


def fake_quantize_per_tensor_affine(context: Any, node: Any) -> None:
    """Rounding to integers and back, as two operations that Core ML computes with integers between."""
    x, scale, zero_point, low, high = _get_inputs(context, node)
    bounds = int(low.val), int(high.val)
    kinds = {(0, 255): "uint8", (-128, 127): "int8"}
    if bounds not in kinds:
        raise CompressionError(
            f"values are rounded to integers from {bounds[0]} to {bounds[1]}; Core ML takes 0 to 255, or -128 to 127"
        )
    kind = kinds[bounds]
    numbers = {
        "scale": np.float32(scale.val),
        "zero_point": np.dtype(kind).type(int(zero_point.val)),
    }
    integers = mb.quantize(input=x, output_dtype=kind, **numbers)
    context.add(mb.dequantize(input=integers, **numbers, name=node.name))


def new_ones(context: Any, node: Any) -> None:
    """Ones of a shape, of the type asked for or that of a tensor."""
    inputs = _get_inputs(context, node)
    x, shape = inputs[0], inputs[1]
    if isinstance(shape, list):
        shape = mb.concat(values=shape, axis=0)
    dtype = inputs[2].val if len(inputs) > 2 and inputs[2] is not None else None
    is_bool = x.dtype == types.bool if dtype is None else dtype == _BOOLEAN
    is_integer = types.is_int(x.dtype) if dtype is None else dtype in _INTEGERS
    if shape.val is not None and np.size(shape.val) == 0:
        # A number by itself, which `fill` cannot make.
        one = np.bool_(True) if is_bool else np.int32(1) if is_integer else np.float32(1)
        context.add(mb.const(val=one, name=node.name))
        return
    ones = mb.fill(shape=shape, value=np.int32(1) if is_bool or is_integer else np.float32(1))
    context.add(
        mb.cast(x=ones, dtype="bool", name=node.name) if is_bool else mb.identity(x=ones, name=node.name)
    )


def diff(context: Any, node: Any) -> None:
    """Differences of neighbours along an axis, `n` times over."""
    x, count, axis, before, after = _get_inputs(context, node)
    axis = int(axis.val)
    parts = [part for part in (before, x, after) if part is not None]
    if len(parts) > 1:
        x = mb.concat(values=parts, axis=axis)
    for _ in range(int(count.val)):
        later, earlier = _without(x, axis, first=True), _without(x, axis, first=False)
        is_bool = x.dtype == types.bool
        x = mb.not_equal(x=later, y=earlier) if is_bool else mb.sub(x=later, y=earlier)
    context.add(mb.identity(x=x, name=node.name))


def adaptive_avg_pool3d(context: Any, node: Any) -> None:
    """Means over windows of a volume, which are means along each axis in turn."""
    x, size = _get_inputs(context, node)
    extents = [int(extent) for extent in size.val]
    if all(extent == 1 for extent in extents):
        context.add(mb.reduce_mean(x=x, axes=[-3, -2, -1], keep_dims=True, name=node.name))
        return
    for axis, extent in zip((-3, -2, -1), extents, strict=True):
        x = _along(x, _means(_extent(x, axis, node), extent), axis)
    context.add(mb.identity(x=x, name=node.name))


def upsample_bicubic2d(context: Any, node: Any) -> None:
    """Bicubic resizing, which is a fixed product with a matrix along each axis."""
    inputs = _get_inputs(context, node)
    x, size, corners = inputs[:3]
    # One list of factors, or a factor an axis.
    factors = [value for given in inputs[3:] if given is not None for value in np.atleast_1d(given.val)]
    extents = [_extent(x, axis, node) for axis in (-2, -1)]
    if size is not None and size.val is None:
        raise CompressionError("bicubic resizing to a size that depends on the input cannot be converted")
    scales: list[float | None] = [float(factor) for factor in factors] if factors else [None, None]
    sizes = (
        [int(extent * float(factor)) for extent, factor in zip(extents, factors, strict=True)]
        if size is None
        else [int(extent) for extent in size.val]
    )
    for axis, extent, out, scale in zip((-2, -1), extents, sizes, scales, strict=True):
        x = _along(x, _bicubic(extent, out, bool(corners.val), scale), axis)
    context.add(mb.identity(x=x, name=node.name))


def sqrt(context: Any, node: Any) -> None:
    """Square roots, of integers too, which torch makes floats first."""
    (x,) = _get_inputs(context, node)
    context.add(mb.sqrt(x=x if types.is_float(x.dtype) else mb.cast(x=x, dtype="fp32"), name=node.name))


CONVERTERS = (adaptive_avg_pool3d, diff, fake_quantize_per_tensor_affine, new_ones, upsample_bicubic2d)
"""Each has the name of the operation in torch's graphs."""

for _converter in CONVERTERS:
    if _TORCH_OPS_REGISTRY.get_func(_converter.__name__) is None:
        register_torch_op(_converter)

# coremltools has one that fails on integers, such as a shape in the scale of attention.
register_torch_op(sqrt, override=True)


def _without(x: Any, axis: int, *, first: bool) -> Any:
    """A tensor without its first or its last element along an axis."""
    rank = len(x.shape)
    axis %= rank
    begin, end = [0] * rank, [0] * rank
    end_mask = [True] * rank
    if first:
        begin[axis] = 1
    else:
        end[axis] = -1
        end_mask[axis] = False
    return mb.slice_by_index(x=x, begin=begin, end=end, end_mask=end_mask)


def _extent(x: Any, axis: int, node: Any) -> int:
    extent = x.shape[axis]
    if not isinstance(extent, int | np.integer):
        raise CompressionError(
            f"the torch operation {node.kind} can be converted for fixed sizes alone, and an input has {extent}"
        )
    return int(extent)


def _along(x: Any, matrix: npt.NDArray[np.float32], axis: int) -> Any:
    """The product of a matrix (out, in) with a tensor along an axis, counted from the end."""
    rank = len(x.shape)
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    moved = mb.transpose(x=x, perm=order) if axis != -1 else x
    product = mb.matmul(x=moved, y=np.ascontiguousarray(matrix.T))
    return mb.transpose(x=product, perm=order) if axis != -1 else product


def _means(extent: int, out: int) -> npt.NDArray[np.float32]:
    eye = torch.eye(extent)[None]
    return np.asarray(torch.nn.functional.adaptive_avg_pool1d(eye, out)[0].T.numpy())


def _bicubic(extent: int, out: int, corners: bool, scale: float | None) -> npt.NDArray[np.float32]:
    columns = torch.eye(extent)[None, :, :, None]
    resized = torch.ops.aten.upsample_bicubic2d(columns, [out, 1], corners, scale, None)
    return np.asarray(resized[0, :, :, 0].T.numpy())
