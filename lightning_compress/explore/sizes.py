"""What a tensor takes in a package, before any package is made.

Each array that a tensor is stored as is a record of the weight file: a header and the data, each aligned to 64 bytes
(coremltools' `mlmodel/src/MILBlob`). Arrays of fewer than ten elements stand in the program itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_compress.methods.mechanism.stored import StoredPalette, StoredTensor

_ALIGNMENT = 64
_HEADER = 64
_LEAST_ELEMENTS = 10
_FLOAT16 = 16


def stored_bytes(value: Tensor, stored: StoredTensor) -> int:
    """Bytes of a tensor in a package at float16.

    Args:
        value: The tensor with the values that are stored.
        stored: How they are stored.
    """
    total = 0
    held = value.numel()
    if stored.sparse:
        held = _kept(value, stored.palette)
        # With a palette of vectors, these are zero or not as wholes.
        vector = 1 if stored.palette is None else int(stored.palette.lut.shape[-1])
        total += _record(value.numel() // vector, 1)
    if stored.palette is not None:
        palette = stored.palette
        entries, vector = (int(extent) for extent in palette.lut.shape[-2:])
        vectors = value.numel() // vector
        total += _record(held if stored.sparse else vectors, max(1, (entries - 1).bit_length()))
        # Where channels have scales, each has a palette of its own.
        channels = 1 if palette.scale is None else palette.scale.numel()
        total += _record(
            palette.lut.numel() * channels, _FLOAT16 if palette.entries is None else palette.entries.n_bits
        )
        if palette.scale is not None:
            total += _record(channels, _FLOAT16)
        if palette.entries is not None:
            total += _record(palette.entries.scale.numel(), _FLOAT16)
    elif stored.integers is not None:
        integers = stored.integers
        total += _record(held, integers.n_bits) + _record(integers.scale.numel(), _FLOAT16)
        if integers.zero_point is not None:
            total += _record(integers.zero_point.numel(), integers.n_bits)
    else:
        total += _record(held, _FLOAT16)
    return total


def dense_bytes(elements: int) -> int:
    """Bytes of a tensor that is not compressed, in a package at float16."""
    return _record(elements, _FLOAT16)


def palette_bytes(elements: int, n_bits: int, vector: int = 1) -> int:
    """Bytes of a tensor with one palette in a package at float16.

    Args:
        elements: Of the tensor.
        n_bits: Of an index.
        vector: Elements that share one.
    """
    return _record(elements // vector, n_bits) + _record(2**n_bits * vector, _FLOAT16)


def _kept(value: Tensor, palette: StoredPalette | None) -> int:
    """How many elements, or vectors of them, are not zero."""
    if palette is None or palette.vector_axis is None:
        return int(torch.count_nonzero(value))
    channels_last = value.movedim(palette.vector_axis, -1)
    vectors = channels_last.reshape(*channels_last.shape[:-1], -1, int(palette.lut.shape[-1]))
    return int((vectors != 0).any(dim=-1).sum())


def _record(elements: int, bits: int) -> int:
    data = -(-elements * bits // 8)
    if elements < _LEAST_ELEMENTS:
        return data
    return _HEADER + -(-data // _ALIGNMENT) * _ALIGNMENT
