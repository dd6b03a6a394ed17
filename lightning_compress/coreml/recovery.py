"""From the values of a finalized tensor back to the integers and indices that it is stored as."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from lightning_compress.coreml.compressed import CompressedTensor, repeated
from lightning_compress.coreml.metadata_buffers import Metadata
from lightning_compress.errors import CompressionError
from lightning_compress.kmeans import assign
from lightning_compress.metadata_names import PALETTIZED, PRUNED, QUANTIZED
from lightning_compress.package.constexpr import palette_blocks
from lightning_compress.package.targets import PALETTE_BITS

Array = npt.NDArray[Any]

_WIDTHS = (4, 8)
"""Bits of an integer that Core ML can store."""

_ROUNDING = 2.0**-7
"""How far a value may be from what is stored, relative to the largest: bfloat16 rounds by half of that."""


def compressed_tensor(values: Array, metadata: Metadata, name: str) -> CompressedTensor:
    """What is stored for a tensor.

    Args:
        values: The tensor's final values.
        metadata: How it is to be stored.
        name: What errors call it.

    Raises:
        CompressionError: If the values are not of the form that the metadata say, or are not finite.
    """
    values = np.asarray(values, dtype=np.float32)
    if values.ndim == 0:
        raise _refusal(name, "a number by itself cannot be compressed")
    for what, numbers in (("its values", values), ("its palettes", metadata.lut)):
        if numbers is not None and not np.isfinite(numbers).all():
            raise _refusal(name, f"{what} hold NaN or infinity. Did training diverge?")
    if PALETTIZED in metadata.compression_type:
        tensor = _palettized(values, metadata, name)
    elif QUANTIZED in metadata.compression_type:
        tensor = _quantized(values, metadata, name)
    else:
        tensor = CompressedTensor(values, 16, mask=values != 0)
    _require_near(tensor.values(), values, name)
    return tensor


def scalar_palette_indices(data: Array, lut: Array) -> npt.NDArray[np.uint8]:
    """Index of the nearest entry of each element's palette, the lowest index among equally near ones.

    Args:
        data: Weights, shape (s_0, ..., s_n).
        lut: Palettes, shape (g_0, ..., g_n, K, 1): along axis i one palette for each run of s_i / g_i
            elements.

    Returns:
        Indices of the shape of `data`.
    """
    indices = np.empty(data.shape, dtype=np.uint8)
    for group, block in palette_blocks(lut.shape[:-2], data.shape):
        indices[block] = assign(data[block], lut[group][:, 0])
    return indices


def vector_palette_indices(data: Array, lut: Array, axis: int) -> npt.NDArray[np.uint8]:
    """Index of the nearest entry of each vector's palette, the lowest index among equal entries.

    Args:
        data: Weights, shape (s_0, ..., s_n); d elements that follow each other along `axis` are a vector.
        lut: Palettes, shape (g_0, ..., g_n, K, d): along axis i one palette for each run of vectors.
        axis: The axis that vectors lie along.

    Returns:
        Indices of the shape of `data`, with 1 / d of its extent along `axis`.
    """
    size = lut.shape[-1]
    shape = [*data.shape[:axis], data.shape[axis] // size, size, *data.shape[axis + 1 :]]
    vectors = np.moveaxis(data.reshape(shape), axis + 1, -1)
    indices = np.empty(vectors.shape[:-1], dtype=np.uint8)
    for group, block in palette_blocks(lut.shape[:-2], indices.shape):
        entries, first = np.unique(lut[group], axis=0, return_index=True)
        # Vectors are mostly copies of entries, which a tree finds without a look at the others.
        indices[block] = first[KDTree(entries).query(vectors[block])[1]]
    return indices


def _palettized(values: Array, metadata: Metadata, name: str) -> CompressedTensor:
    lut = metadata.lut
    if lut is None:
        raise _refusal(name, "it is to be palettized, and there is no buffer 'lut'")
    if lut.ndim == values.ndim + 1:
        lut = lut[..., None]
    axis = (metadata.vector_axis or 0) % values.ndim if lut.shape[-1] > 1 else 0
    extents = list(values.shape)
    if lut.ndim != values.ndim + 2 or extents[axis] % lut.shape[-1]:
        raise _refusal(name, f"a palette of shape {lut.shape} does not fit a tensor of shape {values.shape}")
    extents[axis] //= lut.shape[-1]
    _require_blocks(lut.shape[:-2], tuple(extents), "palettes", name)
    lut = lut.astype(np.float32)
    scale = metadata.palettization_scale
    unscaled = values
    if scale is not None:
        scale = _of_rank(scale, values, "palettization_scale", name)
        each = repeated(scale, values.shape)
        unscaled = np.divide(values, each, out=np.zeros_like(values), where=each != 0)
    if lut.shape[-1] > 1:
        indices = vector_palette_indices(unscaled, lut, axis)
    else:
        indices = scalar_palette_indices(unscaled, lut)
    mask = None
    if PRUNED in metadata.compression_type:
        nonzero = np.moveaxis(
            values.reshape(*extents[:axis], extents[axis], -1, *extents[axis + 1 :]), axis + 1, -1
        )
        mask = np.asarray((nonzero != 0).any(-1))
        indices = np.where(mask, indices, 0).astype(np.uint8)
    bits = next((b for b in PALETTE_BITS if 2**b >= lut.shape[-2]), None)
    if bits is None:
        raise _refusal(name, f"a palette has {lut.shape[-2]} entries; Core ML takes up to 256")
    offset = None
    if QUANTIZED in metadata.compression_type:
        lut, lut_scale, offset = _quantized_palette(lut, metadata, values, name)
        if scale is None:
            scale = lut_scale
        else:
            counts = tuple(math.lcm(*pair) for pair in zip(scale.shape, lut_scale.shape, strict=True))
            scale = repeated(scale, counts) * repeated(lut_scale, counts)
            offset = None if offset is None else repeated(offset, counts)
    missing = 2**bits - lut.shape[-2]
    # Entries that no index names, as an index of that width needs a palette of its size.
    lut = np.pad(lut, [(0, 0)] * values.ndim + [(0, missing), (0, 0)])
    if mask is not None and not mask.any():
        lut = np.zeros_like(lut)
        offset = None
    return CompressedTensor(indices, bits, mask, lut, axis, scale, offset)


def _quantized_palette(
    lut: Array, metadata: Metadata, values: Array, name: str
) -> tuple[Array, Array, Array | None]:
    """A palette's entries as integers, with a scale and an offset for blocks of the tensor."""
    scale, zero_point = metadata.quantization_scale, metadata.zero_point
    if scale is None:
        raise _refusal(name, "its palette is to be quantized, and there is no buffer 'quantization_scale'")

    def squeezed(part: Array) -> Array:
        if part.ndim == 0:
            return part.reshape([1] * values.ndim)
        if part.ndim == values.ndim + 2 and part.shape[-2:] == (1, 1):
            return part[..., 0, 0]
        if part.ndim == values.ndim:
            return part
        raise _refusal(
            name,
            f"a palette's scale has shape {part.shape}; it needs {values.ndim + 2} axes, the last two of one: all "
            "entries of a palette share a scale",
        )

    scale = squeezed(scale)
    zero_point = None if zero_point is None else squeezed(zero_point)
    _require_blocks(scale.shape, lut.shape[: values.ndim], "palettes' scales", name)
    of_entries = scale[..., None, None]
    integers, offset = _integers(
        lut, of_entries, None if zero_point is None else zero_point[..., None, None], 8, name
    )
    return integers, scale, None if offset is None else offset[..., 0, 0]


def _quantized(values: Array, metadata: Metadata, name: str) -> CompressedTensor:
    if metadata.quantization_scale is None or metadata.quantization_n_bits is None:
        raise _refusal(
            name,
            "it is to be quantized, and a buffer 'quantization_scale' or 'quantization_n_bits' is missing",
        )
    bits = next((width for width in _WIDTHS if width >= metadata.quantization_n_bits), None)
    if bits is None:
        raise _refusal(name, f"it is quantized to {metadata.quantization_n_bits} bits; Core ML takes up to 8")
    scale = _of_rank(metadata.quantization_scale, values, "quantization_scale", name)
    zero_point = metadata.zero_point
    if zero_point is not None:
        zero_point = repeated(_of_rank(zero_point, values, "zero_point", name), scale.shape)
    integers, offset = _integers(values, scale, zero_point, bits, name)
    mask = values != 0 if PRUNED in metadata.compression_type else None
    return CompressedTensor(integers, bits, mask, scale=scale, offset=offset)


def _integers(
    values: Array, scale: Array, zero_point: Array | None, bits: int, name: str
) -> tuple[Array, Array | None]:
    """`values / scale + zero_point` as the narrowest kind of integer that holds them, and the zero point as such."""
    each = repeated(scale, values.shape).astype(np.float32)
    levels = np.rint(np.divide(values, each, out=np.zeros_like(values), where=each != 0)).astype(np.int64)
    offset = None
    if zero_point is not None:
        offset = np.rint(zero_point).astype(np.int64)
        if not np.array_equal(offset, zero_point):
            raise _refusal(name, "its zero points are not whole numbers")
        levels = levels + repeated(offset, values.shape)
        if not offset.any():
            offset = None
    parts = levels if offset is None else np.concatenate([levels.reshape(-1), offset.reshape(-1)])
    signed = bool(parts.min() < 0) or (offset is None and bool(parts.max() < 2 ** (bits - 1)))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if parts.min() < low or parts.max() > high:
        raise _refusal(
            name,
            f"divided by its scales it holds integers from {parts.min()} to {parts.max()}, and {bits} bits hold "
            f"those from {low} to {high}",
        )
    dtype = np.int8 if signed else np.uint8
    return levels.astype(dtype), None if offset is None else offset.astype(dtype)


def _of_rank(part: Array, values: Array, key: str, name: str) -> Array:
    """A scale with an axis for each of the tensor's; coremltools leaves trailing ones out."""
    if part.ndim < values.ndim:
        part = part.reshape(*part.shape, *[1] * (values.ndim - part.ndim))
    if part.ndim != values.ndim:
        raise _refusal(name, f"{key} has shape {part.shape} and the tensor {values.shape}")
    _require_blocks(part.shape, values.shape, key, name)
    return part


def _require_blocks(counts: tuple[int, ...], shape: tuple[int, ...], what: str, name: str) -> None:
    if any(count == 0 or extent % count for extent, count in zip(shape, counts, strict=True)):
        raise _refusal(name, f"{counts} {what} cannot be shared out over a tensor of shape {shape}")


def _require_near(stored: Array, values: Array, name: str) -> None:
    far = np.abs(stored - values)
    limit = _ROUNDING * float(np.abs(values).max(initial=0.0))
    if far.size and float(far.max()) > limit:
        position = tuple(int(index) for index in np.unravel_index(int(far.argmax()), far.shape))
        raise _refusal(
            name,
            f"its value at {position} is {values[position]:.6g}, and the nearest that its metadata can say is "
            f"{stored[position]:.6g}. Was it changed after it was finalized? Sparse vectors have to be zero as a "
            "whole or not at all",
        )


def _refusal(name: str, reason: str) -> CompressionError:
    return CompressionError(f"{name!r} cannot be stored compressed: {reason}")
