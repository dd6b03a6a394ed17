"""Compressed weights: lookup tables, sparse, affine and blockwise quantized, and their joint forms.

Those of iOS16 that share a name with one of iOS18 are brought to its form when a program is lowered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_compress.package.constexpr import unpacked
from lightning_compress.runtime.ops.quantization import dequantize
from lightning_compress.runtime.registry import register


@register("constexpr_affine_dequantize", tensors="quantized_data zero_point scale")
def affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    """`scale * (quantized_data - zero_point)`, with scalars or with vectors along an axis."""
    return dequantize(quantized_data, scale, zero_point, axis)


@register("constexpr_cast", tensors="source_val")
def constexpr_cast(source_val: Tensor, output_dtype: str = "fp32") -> Tensor:
    """float16 values stored for a float32 constant."""
    return source_val.to(torch.float32)


@register("constexpr_lut_to_dense", tensors="indices lut")
def lut_to_dense(indices: Tensor, lut: Tensor, vector_axis: int | None = None) -> Tensor:
    """Look indices up in a palette, or in one palette for each block of the weight.

    Args:
        indices: one a weight, or one a vector of weights, in the weight's shape.
        lut: [*blocks, entries, vector size].
        vector_axis: the axis along which vectors of weights lie.
    """
    entries, width = lut.shape[-2:]
    flat = lut.reshape(-1, width)
    where = indices.to(torch.int32)
    if flat.shape[0] > entries:
        block = torch.zeros((), dtype=torch.int32, device=lut.device)
        for axis, (size, count) in enumerate(zip(indices.shape, lut.shape[:-2], strict=True)):
            part = torch.arange(size, dtype=torch.int32, device=lut.device) // (size // count)
            block = block * count + part.reshape(-1, *[1] * (indices.dim() - axis - 1))
        where = where + block * entries
    vectors = flat.index_select(0, where.reshape(-1)).reshape(*indices.shape, width)
    if width == 1:
        return vectors.squeeze(-1)
    assert vector_axis is not None
    axis = vector_axis % indices.dim()
    return vectors.movedim(-1, axis + 1).flatten(axis, axis + 1)


@register("constexpr_sparse_to_dense", tensors="nonzero_data mask")
def sparse_to_dense(nonzero_data: Tensor, mask: Tensor) -> Tensor:
    """Values where a mask is set, in row-major order, and zeros elsewhere.

    Args:
        nonzero_data: the values, a vector.
        mask: 0 or 1 a weight, in the weight's shape.
    """
    dense = torch.zeros(mask.shape, dtype=nonzero_data.dtype, device=nonzero_data.device)
    return dense.masked_scatter_(mask.bool(), nonzero_data)


@register("constexpr_blockwise_shift_scale", tensors="data scale offset")
def blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """`scale * (data - offset)` with a scale for each block of the weight, in the type of the scales."""
    levels = data.to(scale.dtype)
    if offset is not None:
        levels = levels - _spread(offset, data).to(scale.dtype)
    return _spread(scale, data) * levels


@register("constexpr_lut_to_sparse", tensors="indices_mask indices_nonzero_data lut")
def lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """Look the indices of a sparse weight up: the mask and the values of the sparse result."""
    dense = lut_to_dense(sparse_to_dense(indices_nonzero_data, indices_mask), lut, vector_axis)
    mask = indices_mask
    if vector_axis is not None:
        mask = mask.repeat_interleave(lut.shape[-1], vector_axis)
    return mask, dense[mask != 0]


@register("constexpr_sparse_blockwise_shift_scale", tensors="data_mask nonzero_data scale offset")
def sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Dequantize the values of a sparse weight: the mask and the values of the sparse result."""
    dense = blockwise_shift_scale(sparse_to_dense(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]


def _unpacked(packed: Tensor, bits: int, shape: Sequence[int]) -> Tensor:
    integers = unpacked(packed.numpy(), bits, math.prod(shape))
    return torch.from_numpy(integers).reshape(tuple(shape))


def modern_form(op_type: str, stored: dict[str, Tensor], attributes: dict[str, Any]) -> dict[str, Tensor]:
    """The constants of an iOS16 op in the form of the iOS18 op of the same name.

    iOS16 packs indices and masks into bytes and gives the weight's shape beside them; iOS18 types each by itself.
    """
    if "shape" not in attributes:
        return stored
    shape = attributes.pop("shape")
    if op_type == "constexpr_sparse_to_dense":
        return {**stored, "mask": _unpacked(stored["mask"], 1, shape)}
    entries = stored["lut"].numel()
    return {
        "indices": _unpacked(stored["indices"], entries.bit_length() - 1, shape),
        "lut": stored["lut"].reshape(*[1] * len(shape), entries, 1),
    }


def _spread(parameter: Tensor, data: Tensor) -> Tensor:
    """Repeat the entries of a parameter over their blocks, axes of size 1 left to broadcasting."""
    for axis, (size, count) in enumerate(zip(data.shape, parameter.shape, strict=True)):
        if count not in (1, size):
            parameter = parameter.repeat_interleave(size // count, axis)
    return parameter
