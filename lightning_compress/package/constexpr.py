"""The values of compressed constants: what each `constexpr_*` operation of iOS16 to iOS18 stands for.

coremltools 9 has functions for this too. They repeat the palette for each weight before they look one entry
up (1.2 GB for a 512x512x3x3 convolution at 8 bits), and they fail where a palette is itself compressed, which
is how the converter writes every palette with a per-channel scale or int8 entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def decompressed(variable: Any) -> Array:
    """The dense values of a constant of a coremltools `Program`, whichever way it is stored.

    Args:
        variable: The output of a `const` or `constexpr_*` operation.
    """
    if variable.val is not None:
        return np.asarray(variable.val)
    operation = variable.op
    values = _DECOMPRESS[operation.op_type](operation)
    return values[operation.outputs.index(variable)] if isinstance(values, tuple) else values


def palette_blocks(
    groups: tuple[int, ...], shape: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Each group's index, and the part of a tensor of `shape` that it holds for.

    Args:
        groups: Number of groups along each axis; it divides the extent.
        shape: Shape of the tensor.
    """
    for group in np.ndindex(*groups):
        yield (
            group,
            tuple(
                slice(index * (extent // count), (index + 1) * (extent // count))
                for index, extent, count in zip(group, shape, groups, strict=True)
            ),
        )


def unpacked(packed: npt.NDArray[np.uint8], n_bits: int, count: int) -> npt.NDArray[np.uint8]:
    """Numbers of `n_bits` that are stored one after the other, least significant bit first."""
    bits = np.unpackbits(packed, count=n_bits * count, bitorder="little").reshape(count, n_bits)
    return np.packbits(bits, axis=1, bitorder="little").reshape(count)


def _input(operation: Any, name: str) -> Array:
    return decompressed(operation.inputs[name])


def _optional(operation: Any, name: str) -> Array | None:
    variable = operation.inputs.get(name)
    return None if variable is None else decompressed(variable)


def _affine_dequantize(operation: Any) -> Array:
    data, scale, offset = (_input(operation, name) for name in ("quantized_data", "scale", "zero_point"))
    shape = [1] * data.ndim
    shape[int(_input(operation, "axis"))] = -1

    def spread(values: Array) -> Array:
        return values.reshape(shape) if values.size > 1 else values.reshape(())

    dense: Array = (data.astype(np.float32) - spread(offset).astype(np.float32)) * spread(scale)
    return dense.astype(scale.dtype)


def _blockwise_shift_scale(operation: Any) -> Array:
    return _scaled(_input(operation, "data"), _input(operation, "scale"), _optional(operation, "offset"))


def _scaled(data: Array, scale: Array, offset: Array | None) -> Array:
    dense = data.astype(scale.dtype)
    if offset is not None:
        dense = dense - _repeated(offset, data.shape).astype(scale.dtype)
    result: Array = dense * _repeated(scale, data.shape)
    return result


def _repeated(values: Array, shape: tuple[int, ...]) -> Array:
    """One value a block made one value an element; extents of one are left to broadcasting."""
    for axis, extent in enumerate(shape):
        if values.shape[axis] not in (1, extent):
            values = np.repeat(values, extent // values.shape[axis], axis=axis)
    return values


def _cast(operation: Any) -> Array:
    return _input(operation, "source_val").astype(str(operation.inputs["output_dtype"].val))


def _lut_to_dense(operation: Any) -> Array:
    lut = _input(operation, "lut")
    indices = _input(operation, "indices")
    if "shape" in operation.inputs:  # iOS16: one palette, packed indices
        shape = tuple(int(extent) for extent in _input(operation, "shape"))
        return np.asarray(lut[unpacked(indices, int(np.log2(lut.size)), int(np.prod(shape)))].reshape(shape))
    return _looked_up(indices.astype(np.uint8), lut, _vector_axis(operation))


def _vector_axis(operation: Any) -> int:
    axis = _optional(operation, "vector_axis")
    return 0 if axis is None else int(axis)


def _looked_up(indices: Array, lut: Array, vector_axis: int) -> Array:
    """Entries of palettes of shape (g_0, ..., g_n, entries, vector), each a run along `vector_axis`."""
    dense = np.empty((*indices.shape, lut.shape[-1]), dtype=lut.dtype)
    for group, block in palette_blocks(lut.shape[:-2], indices.shape):
        dense[block] = lut[group][indices[block]]
    axis = vector_axis % indices.ndim
    shape = list(indices.shape)
    shape[axis] *= lut.shape[-1]
    return np.moveaxis(dense, -1, axis + 1).reshape(shape)


def _sparse_to_dense(operation: Any) -> Array:
    data, mask = _input(operation, "nonzero_data"), _input(operation, "mask")
    if "shape" in operation.inputs:  # iOS16: packed mask
        shape = tuple(int(extent) for extent in _input(operation, "shape"))
        mask = unpacked(mask, 1, int(np.prod(shape))).reshape(shape)
    return _scattered(data, mask)


def _scattered(data: Array, mask: Array) -> Array:
    dense = np.zeros(mask.shape, dtype=data.dtype)
    dense[mask != 0] = data
    return dense


def _lut_to_sparse(operation: Any) -> tuple[Array, Array]:
    mask, lut = _input(operation, "indices_mask"), _input(operation, "lut")
    indices = _scattered(_input(operation, "indices_nonzero_data").astype(np.uint8), mask)
    axis = _vector_axis(operation)
    dense = _looked_up(indices, lut, axis)
    out_mask = np.repeat(mask, lut.shape[-1], axis=axis)
    return out_mask, dense[out_mask != 0]


def _sparse_blockwise_shift_scale(operation: Any) -> tuple[Array, Array]:
    mask = _input(operation, "data_mask")
    data = _scattered(_input(operation, "nonzero_data"), mask)
    dense = _scaled(data, _input(operation, "scale"), _optional(operation, "offset"))
    return mask, dense[mask != 0]


_DECOMPRESS: dict[str, Callable[[Any], Array | tuple[Array, Array]]] = {
    "constexpr_affine_dequantize": _affine_dequantize,
    "constexpr_blockwise_shift_scale": _blockwise_shift_scale,
    "constexpr_cast": _cast,
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_lut_to_sparse": _lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": _sparse_blockwise_shift_scale,
    "constexpr_sparse_to_dense": _sparse_to_dense,
}
