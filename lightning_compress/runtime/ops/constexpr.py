"""Compressed weights: lookup tables, sparse, affine and blockwise quantized, and their joint forms.

iOS16 and iOS18 have ops of the same names with other parameters; each function takes both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
def lut_to_dense(
    indices: Tensor, lut: Tensor, vector_axis: int | None = None, shape: Sequence[int] | None = None
) -> Tensor:
    """Look indices up in a palette, or in one palette for each block of the weight.

    Args:
        indices: iOS18: one a weight (or one a vector of weights) in the weight's shape; iOS16: a vector of packed
            bytes.
        lut: iOS18: [*blocks, entries, vector size]; iOS16: [entries].
        vector_axis: iOS18: the axis along which vectors of weights lie.
        shape: iOS16: the shape of the weight.
    """
    if shape is not None:
        bits = lut.numel().bit_length() - 1
        return lut[unpack(indices, bits, list(shape)).long()]
    entries, width = lut.shape[-2:]
    blocks = lut.shape[:-2]
    flat = lut.reshape(-1, width)
    block = torch.zeros((), dtype=torch.int64, device=lut.device)
    for axis, (size, count) in enumerate(zip(indices.shape, blocks, strict=True)):
        part = torch.arange(size, device=lut.device) // (size // count)
        block = block * count + part.reshape(-1, *[1] * (indices.dim() - axis - 1))
    vectors = flat[indices.long() + block * entries]
    if width == 1:
        return vectors.squeeze(-1)
    assert vector_axis is not None
    axis = vector_axis % indices.dim()
    return vectors.movedim(-1, axis + 1).flatten(axis, axis + 1)


@register("constexpr_sparse_to_dense", tensors="nonzero_data mask")
def sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """Values where a mask is set, in row-major order, and zeros elsewhere.

    Args:
        nonzero_data: the values, a vector.
        mask: iOS18: 0 or 1 a weight in the weight's shape; iOS16: a vector of packed bytes.
        shape: iOS16: the shape of the weight.
    """
    if shape is not None:
        mask = unpack(mask, 1, list(shape))
    dense = torch.zeros(mask.shape, dtype=nonzero_data.dtype, device=nonzero_data.device)
    dense[mask != 0] = nonzero_data
    return dense


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


def unpack(packed: Tensor, bits: int, shape: Sequence[int]) -> Tensor:
    """Integers of some bits each from bytes; the lowest bits come first, and an integer may cross bytes."""
    count = 1
    for size in shape:
        count *= size
    if bits == 8:
        return packed[:count].reshape(shape)
    places = torch.arange(8, device=packed.device, dtype=torch.uint8)
    stream = (packed.unsqueeze(-1) >> places) & 1
    groups = stream.reshape(-1)[: count * bits].reshape(count, bits)
    return (groups << places[:bits]).sum(-1, dtype=torch.uint8).reshape(shape)


def _spread(parameter: Tensor, data: Tensor) -> Tensor:
    """Repeat the entries of a parameter over their blocks, axes of size 1 left to broadcasting."""
    for axis, (size, count) in enumerate(zip(data.shape, parameter.shape, strict=True)):
        if count not in (1, size):
            parameter = parameter.repeat_interleave(size // count, axis)
    return parameter
