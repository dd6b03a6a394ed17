"""Compressed tensors as `constexpr_*` operations of a program, written and read.

Joint forms follow what coremltools 9 tests on devices (`mil/ops/tests/iOS18/test_compression.py`): a palette that
has a scale or integers for entries is dequantized before anything is looked up in it. The other order, looked up
first, is one that its pass `canonicalize_quantized_lut_pattern` calls broken before iOS26.
"""

from __future__ import annotations

import math
from typing import Any

import coremltools as ct
import numpy as np
import numpy.typing as npt
from coremltools.converters.mil.mil import Builder, types

from lightning_compress.coreml.compressed import CompressedTensor, repeated
from lightning_compress.errors import CompressionError
from lightning_compress.package.constexpr import decompressed, unpacked
from lightning_compress.package.targets import target_name

Array = npt.NDArray[Any]


def write_constant(
    tensor: CompressedTensor, name: str, opset: ct.target, *, dtype: Any = np.float32, before: Any = None
) -> Any:
    """Put a compressed tensor into the block that is being built.

    Args:
        tensor: What to store.
        name: Name of the constant.
        opset: The program's operation set.
        dtype: Type of palettes' floats, scales and sparse values, and so of the constant.
        before: Operation to put it before; at the end of the block if None.

    Returns:
        The variable that holds the values.

    Raises:
        CompressionError: If the operation set cannot say it; the message names the tensor and what could.
    """
    place: dict[str, Any] = {} if before is None else {"before_op": before}
    if opset < ct.target.iOS18:
        return _write_early(tensor, name, opset, dtype, place)
    if tensor.lut is not None:
        return _write_palettized(tensor, tensor.lut, name, dtype, place)
    if tensor.mask is not None:
        mask, data = _sparse(tensor)
        if tensor.scale is None:
            return Builder.constexpr_sparse_to_dense(
                nonzero_data=data.astype(dtype), mask=mask, name=name, **place
            )
        out_mask, values = Builder.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask,
            nonzero_data=_typed(data, tensor.n_bits),
            **_shift_scale(tensor, dtype),
            name=f"{name}_quantized",
            **place,
        )
        return Builder.constexpr_sparse_to_dense(nonzero_data=values, mask=out_mask, name=name, **place)
    if tensor.scale is None:
        raise CompressionError(f"{name!r} has neither zeros nor a palette nor a scale to store it with")
    return Builder.constexpr_blockwise_shift_scale(
        data=_typed(tensor.data, tensor.n_bits), **_shift_scale(tensor, dtype), name=name, **place
    )


def _write_palettized(
    tensor: CompressedTensor, lut: Array, name: str, dtype: Any, place: dict[str, Any]
) -> Any:
    entries: Any = lut if tensor.scale is not None and lut.dtype.kind in "iu" else lut.astype(dtype)
    if tensor.scale is not None:
        lut, scale, offset = _scaled_palettes(tensor, entries, tensor.scale)
        entries = Builder.constexpr_blockwise_shift_scale(
            data=lut, scale=scale.astype(dtype), offset=offset, name=f"{name}_palette", **place
        )
    axis = {"vector_axis": np.int32(tensor.vector_axis)} if tensor.vector_size > 1 else {}
    if tensor.mask is None:
        return Builder.constexpr_lut_to_dense(
            indices=_unsigned(tensor.data, tensor.n_bits), lut=entries, **axis, name=name, **place
        )
    mask, data = _sparse(tensor)
    out_mask, values = Builder.constexpr_lut_to_sparse(
        indices_mask=mask,
        indices_nonzero_data=_unsigned(data, tensor.n_bits),
        lut=entries,
        **axis,
        name=f"{name}_palettized",
        **place,
    )
    return Builder.constexpr_sparse_to_dense(nonzero_data=values, mask=out_mask, name=name, **place)


def _scaled_palettes(tensor: CompressedTensor, lut: Array, scale: Array) -> tuple[Array, Array, Array | None]:
    """Palettes as fine as the scales, and the scales (and offsets) with the palettes' two axes behind their own."""
    offset = tensor.offset
    counts = list(scale.shape)
    extents = tensor.data.shape
    axis, size = tensor.vector_axis, tensor.vector_size
    within = 1
    if size > 1 and extents[axis] % counts[axis]:
        # Scales finer than a vector become scales of its elements.
        counts[axis], within = extents[axis], size
        each = (*scale.shape[:axis], tensor.shape[axis], *scale.shape[axis + 1 :])
        scale = repeated(scale, each)
        offset = None if offset is None else repeated(offset, each)

    def behind(part: Array) -> Array:
        split = part.reshape(*part.shape[:axis], counts[axis], within, *part.shape[axis + 1 :])
        return np.moveaxis(split, axis + 1, -1)[..., None, :]

    groups = tuple(math.lcm(*pair) for pair in zip(lut.shape[: len(extents)], counts, strict=True))
    return (
        repeated(lut, (*groups, *lut.shape[-2:])),
        behind(scale),
        None if offset is None else behind(offset),
    )


def _write_early(
    tensor: CompressedTensor, name: str, opset: ct.target, dtype: Any, place: dict[str, Any]
) -> Any:
    """One of the three forms of iOS16 and iOS17."""
    lut, scale, mask = tensor.lut, tensor.scale, tensor.mask
    shape = np.array(tensor.shape, np.uint32)
    if mask is not None and lut is None and scale is None:
        bits, data = _sparse(tensor)
        packed = np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little")
        return Builder.constexpr_sparse_to_dense(
            nonzero_data=data.astype(dtype), mask=packed, shape=shape, name=name, **place
        )
    if mask is None and lut is not None and scale is None and lut.size == 2**tensor.n_bits != 8:
        bits = (tensor.data.reshape(-1, 1) >> np.arange(tensor.n_bits, dtype=np.uint8)) & 1
        packed = np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little")
        return Builder.constexpr_lut_to_dense(
            indices=packed, lut=lut.reshape(-1).astype(dtype), shape=shape, name=name, **place
        )
    if mask is None and lut is None and scale is not None and tensor.n_bits == 8:
        axes = [axis for axis, count in enumerate(scale.shape) if count > 1]
        if not axes or (len(axes) == 1 and scale.size == tensor.shape[axes[0]]):
            offset = np.zeros(scale.shape, tensor.data.dtype) if tensor.offset is None else tensor.offset
            flat = (scale.size,) if axes else ()
            return Builder.constexpr_affine_dequantize(
                quantized_data=tensor.data,
                zero_point=offset.reshape(flat) if flat else offset.reshape(-1)[0],
                scale=scale.astype(dtype).reshape(flat) if flat else scale.astype(dtype).reshape(-1)[0],
                axis=np.int32(axes[0] if axes else 0),
                name=name,
                **place,
            )
    raise CompressionError(
        f"{name!r} cannot be stored compressed for {target_name(opset.value)}: it carries zeros alone, one palette "
        "of 1, 2, 4, 6 or 8 bits for a tensor, or int8 weights with a scale a tensor or a channel. "
        'Ask for minimum_deployment_target="iOS18" or later'
    )


def _sparse(tensor: CompressedTensor) -> tuple[Array, Array]:
    """The mask as Core ML types it, and the data where it is set."""
    assert tensor.mask is not None
    mask, data = tensor.mask, tensor.data
    if not mask.any():
        # An empty constant cannot be stored; one zero can.
        mask = mask.copy()
        mask.flat[0] = True
        data = data.copy()
        data.flat[0] = 0 if tensor.offset is None or tensor.lut is not None else tensor.offset.flat[0]
    return mask.astype(types.np_uint1_dtype), data[mask]


def _shift_scale(tensor: CompressedTensor, dtype: Any) -> dict[str, Any]:
    assert tensor.scale is not None
    inputs = {"scale": tensor.scale.astype(dtype)}
    if tensor.offset is not None:
        inputs["offset"] = _typed(tensor.offset, tensor.n_bits)
    return inputs


def _typed(integers: Array, n_bits: int) -> Array:
    kind = "uint" if integers.dtype.kind == "u" else "int"
    return integers.astype(types.nptype_from_builtin(types.string_to_builtin(f"{kind}{n_bits}")))


def _unsigned(indices: Array, n_bits: int) -> Array:
    return _typed(indices.astype(np.uint8), n_bits)


def read_constant(variable: Any) -> CompressedTensor | None:
    """The compressed tensor that a variable of a program holds, or None if it holds none that is known here."""
    operation = variable.op
    if operation is None or not operation.op_type.startswith("constexpr_"):
        return None
    reader = _READERS.get(operation.op_type)
    return None if reader is None else reader(operation)


def _value(operation: Any, name: str) -> Any:
    variable = operation.inputs.get(name)
    return None if variable is None else variable.val


def _plain(values: Array) -> Array:
    """Integers without coremltools' notes on their width."""
    return values.astype(np.int8 if values.dtype.kind == "i" else np.uint8)


def _bits(variable: Any) -> int:
    return int(variable.dtype.get_bitwidth())


def _read_affine(operation: Any) -> CompressedTensor:
    data = operation.quantized_data.val
    shape = [1] * data.ndim
    if np.size(operation.scale.val) > 1:
        shape[int(operation.axis.val)] = -1
    scale = np.asarray(operation.scale.val).reshape(shape)
    offset = np.broadcast_to(np.asarray(operation.zero_point.val).reshape(-1), (scale.size,)).reshape(
        scale.shape
    )
    return CompressedTensor(_plain(data), 8, scale=scale, offset=_plain(offset) if offset.any() else None)


def _read_shift_scale(operation: Any) -> CompressedTensor | None:
    data, offset = _value(operation, "data"), _value(operation, "offset")
    if data is None or data.dtype.kind == "f" or operation.scale.val is None:
        return None
    return CompressedTensor(
        _plain(data),
        _bits(operation.data),
        scale=operation.scale.val,
        offset=None if offset is None else _plain(offset),
    )


def _read_lut(operation: Any) -> CompressedTensor | None:
    if "shape" in operation.inputs:
        shape = tuple(int(extent) for extent in operation.shape.val)
        lut = operation.lut.val.reshape(*[1] * len(shape), -1, 1)
        bits = lut.shape[-2].bit_length() - 1
        indices = unpacked(operation.indices.val, bits, int(np.prod(shape))).reshape(shape)
        return CompressedTensor(indices, bits, lut=lut)
    return _with_palette(operation, operation.indices.val.astype(np.uint8), _bits(operation.indices), None)


def _with_palette(operation: Any, indices: Array, bits: int, mask: Array | None) -> CompressedTensor | None:
    given = _value(operation, "vector_axis")
    axis = 0 if given is None or operation.lut.shape[-1] == 1 else int(given) % indices.ndim
    lut, scale, offset = operation.lut.val, None, None
    if lut is None:
        source = operation.lut.op
        if source.op_type != "constexpr_blockwise_shift_scale" or source.data.val is None:
            return None
        lut, scale, offset = source.data.val, source.scale.val, _value(source, "offset")
        if scale.shape[-2] != 1 or scale.shape[-1] not in (1, lut.shape[-1]):
            return None
        within = scale.shape[-1]

        def in_front(part: Array) -> Array:
            moved = np.moveaxis(part[..., 0, :], -1, axis + 1)
            return moved.reshape(*moved.shape[:axis], moved.shape[axis] * within, *moved.shape[axis + 2 :])

        scale = in_front(scale)
        offset = None if offset is None else _plain(in_front(offset))
        lut = lut if lut.dtype.kind == "f" else _plain(lut)
    return CompressedTensor(indices, bits, mask, lut, axis, scale, offset)


def _scattered(data: Array, mask: Array) -> Array:
    dense = np.zeros(mask.shape, data.dtype)
    dense[mask] = data
    return dense


def _read_sparse(operation: Any) -> CompressedTensor | None:
    if "shape" in operation.inputs:
        values = decompressed(operation.outputs[0])
        shape = tuple(int(extent) for extent in operation.shape.val)
        bits = np.unpackbits(operation.mask.val, count=int(np.prod(shape)), bitorder="little")
        return CompressedTensor(values, 16, mask=bits.reshape(shape) != 0)
    data = operation.nonzero_data
    if data.val is not None:
        mask = operation.mask.val != 0
        return CompressedTensor(_scattered(data.val, mask), 16, mask=mask)
    source = data.op
    if source.op_type == "constexpr_lut_to_sparse":
        mask = source.indices_mask.val != 0
        indices = _scattered(source.indices_nonzero_data.val.astype(np.uint8), mask)
        return _with_palette(source, indices, _bits(source.indices_nonzero_data), mask)
    if source.op_type == "constexpr_sparse_blockwise_shift_scale" and source.nonzero_data.val is not None:
        mask, offset = source.data_mask.val != 0, _value(source, "offset")
        return CompressedTensor(
            _scattered(_plain(source.nonzero_data.val), mask),
            _bits(source.nonzero_data),
            mask,
            scale=source.scale.val,
            offset=None if offset is None else _plain(offset),
        )
    return None


_READERS = {
    "constexpr_affine_dequantize": _read_affine,
    "constexpr_blockwise_shift_scale": _read_shift_scale,
    "constexpr_lut_to_dense": _read_lut,
    "constexpr_sparse_to_dense": _read_sparse,
}
