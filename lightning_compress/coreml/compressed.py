"""A compressed tensor apart from any program: what is stored, what it stands for, and how it can be rearranged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_compress.package.constexpr import palette_blocks

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class CompressedTensor:
    """What the `constexpr_*` operations of a constant store.

    Its values are `scale * (levels - offset)` where the mask is set and zero elsewhere. The levels are `data`
    itself, or the entries of `lut` that it holds the indices of; without a scale they are the values.

    Attributes:
        data: Floats, integers (int8 or uint8), or indices (uint8), in the tensor's shape; of indices of vectors
            one a vector.
        n_bits: Bits that an integer or an index is stored in; 16 for floats.
        mask: Where `data` counts, in its shape; None for everywhere.
        lut: Palettes, shape (g_0, ..., g_n, K, D): along axis i one for each run of indices; floats, or integers
            if there is a scale.
        vector_axis: Axis along which a palette's vectors lie; 0 where D is one.
        scale: One for each block, with as many axes as the tensor, block counts along each.
        offset: Integers of the shape of `scale`, or None for zero.
    """

    data: Array
    n_bits: int
    mask: npt.NDArray[np.bool_] | None = None
    lut: Array | None = None
    vector_axis: int = 0
    scale: Array | None = None
    offset: Array | None = None

    @property
    def vector_size(self) -> int:
        """How many elements one palette entry stands for."""
        return 1 if self.lut is None else int(self.lut.shape[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        shape = list(self.data.shape)
        shape[self.vector_axis] *= self.vector_size
        return tuple(shape)

    def values(self) -> Array:
        """The dense values, in float32."""
        dense = (self.data if self.lut is None else self._looked_up(self.lut)).astype(np.float32)
        if self.offset is not None:
            dense = dense - repeated(self.offset, self.shape).astype(np.float32)
        if self.scale is not None:
            dense = dense * repeated(self.scale, self.shape).astype(np.float32)
        return dense if self.mask is None else np.where(self.element_mask(), dense, np.float32(0))

    def _looked_up(self, lut: Array) -> Array:
        dense = np.empty((*self.data.shape, self.vector_size), dtype=lut.dtype)
        for group, block in palette_blocks(lut.shape[:-2], self.data.shape):
            dense[block] = lut[group][self.data[block]]
        return np.moveaxis(dense, -1, self.vector_axis + 1).reshape(self.shape)

    def element_mask(self) -> npt.NDArray[np.bool_]:
        """The mask with one entry an element, for vectors too."""
        mask = np.ones(self.data.shape, np.bool_) if self.mask is None else self.mask
        return np.repeat(mask, self.vector_size, axis=self.vector_axis)

    def transposed(self, permutation: Sequence[int]) -> CompressedTensor:
        """The tensor with its axes in another order, as `numpy.transpose` gives it."""
        rank = self.data.ndim
        order = [axis % rank for axis in permutation]

        def moved(values: Array | None, kept: int = 0) -> Array | None:
            return None if values is None else values.transpose(*order, *range(rank, rank + kept))

        return replace(
            self,
            data=self.data.transpose(order),
            mask=moved(self.mask),
            lut=moved(self.lut, 2),
            scale=moved(self.scale),
            offset=moved(self.offset),
            vector_axis=order.index(self.vector_axis),
        )

    def reshaped(self, shape: Sequence[int]) -> CompressedTensor | None:
        """The tensor in another shape, or None where its parts cannot follow: they can per tensor and by row."""
        old, new = self.shape, tuple(shape)
        if old == new:
            return self
        parts = [part for part in (self.lut, self.scale) if part is not None]
        by_row = any(part.shape[0] > 1 for part in parts)
        inside = any(count > 1 for part in parts for count in part.shape[1 : len(old)])
        if self.vector_size > 1 or inside or (by_row and (not new or old[0] != new[0])):
            return None

        def follow(values: Array | None, kept: int = 0) -> Array | None:
            if values is None:
                return None
            tail = values.shape[values.ndim - kept :]
            return values.reshape(values.shape[0], *(1 for _ in new[1:]), *tail)

        return replace(
            self,
            data=self.data.reshape(new),
            mask=None if self.mask is None else self.mask.reshape(new),
            lut=follow(self.lut, 2),
            scale=follow(self.scale),
            offset=follow(self.offset),
            vector_axis=0,
        )

    def rows(self, rows: Sequence[int]) -> CompressedTensor | None:
        """Rows (along axis 0) in any order and number; None if vectors along axis 0 would be cut apart."""
        indices = np.asarray(rows, dtype=np.int64)
        of_data = indices
        if self.vector_size > 1 and self.vector_axis == 0:
            size = self.vector_size
            if len(indices) % size:
                return None
            of_data = indices[::size] // size
            if not np.array_equal(np.repeat(of_data * size, size) + np.arange(len(indices)) % size, indices):
                return None
        scale, offset = self.scale, self.offset
        if scale is not None:
            runs = _runs(indices // (self.shape[0] // scale.shape[0]))
            scale = scale[runs]
            offset = None if offset is None else offset[runs]
        lut = self.lut
        if lut is not None:
            lut = lut[_runs(of_data // (self.data.shape[0] // lut.shape[0]))]
        mask = None if self.mask is None else self.mask[of_data]
        return replace(self, data=self.data[of_data], mask=mask, lut=lut, scale=scale, offset=offset)

    def multiplied(self, factors: Array) -> CompressedTensor | None:
        """The tensor times one factor a block, or None where that is not exact up to the rounding of scales.

        Integers stay, their scales take the factors. A scale is never negative: a factor below zero turns the
        integers' sign instead. Palettes take factors where they have a scale that is as fine.

        Args:
            factors: One for each block, with as many axes as the tensor, block counts along each.
        """
        if self.lut is None and self.scale is None:
            return replace(self, data=self.data * repeated(factors, self.shape))
        if self.scale is None:
            return None
        counts = tuple(math.lcm(*pair) for pair in zip(factors.shape, self.scale.shape, strict=True))
        if any(extent % count for extent, count in zip(self.shape, counts, strict=True)):
            return None
        if self.lut is not None:
            if counts != self.scale.shape:
                return None
            return replace(self, scale=self.scale * repeated(factors, counts))
        signed = replace(
            self,
            scale=repeated(self.scale, counts) * np.abs(repeated(factors, counts)),
            offset=None if self.offset is None else repeated(self.offset, counts),
        )
        return signed._negated(repeated(factors, counts) < 0) if (factors < 0).any() else signed

    def _negated(self, where: npt.NDArray[np.bool_]) -> CompressedTensor:
        """The integers of some blocks, one for each scale, turned to their opposites, exactly."""
        assert self.scale is not None
        dtype = self.data.dtype
        negative = repeated(where, self.shape)
        data = self.data.astype(np.int32)
        if self.offset is None and dtype.kind == "i":
            lowest = _any_in_blocks((data == -(2 ** (self.n_bits - 1))) & negative, self.scale.shape)
        else:
            lowest = where
        # Mirrored around the middle of the range, every integer has an opposite; around zero all but the lowest.
        mirror = -1 if dtype.kind == "i" else 2**self.n_bits - 1
        mirrored = lowest & where
        data = np.where(
            negative, np.where(repeated(mirrored, self.shape), mirror - data, -data), data
        ).astype(dtype)
        if not mirrored.any():
            return replace(self, data=data)
        offset = np.zeros(self.scale.shape, np.int32) if self.offset is None else self.offset.astype(np.int32)
        return replace(self, data=data, offset=np.where(mirrored, mirror - offset, offset).astype(dtype))


def concatenated(tensors: Sequence[CompressedTensor]) -> CompressedTensor | None:
    """Tensors one behind the other along axis 0, or None if they are not stored in the same way."""
    if len(tensors) == 1:
        return tensors[0]
    kinds = {
        (
            tensor.data.dtype,
            tensor.n_bits,
            tensor.vector_axis,
            tensor.mask is None,
            None if tensor.lut is None else (tensor.lut.dtype, tensor.lut.shape[1:]),
            None if tensor.scale is None else tensor.scale.shape[1:],
        )
        for tensor in tensors
    }
    if len(kinds) > 1:
        return None

    def joined(parts: Sequence[Array | None], extents: Sequence[int]) -> Array | None:
        present = [part for part in parts if part is not None]
        if not present:
            return None
        rows = [
            np.repeat(part, extent // len(part), 0) for part, extent in zip(present, extents, strict=True)
        ]
        together = np.concatenate(rows)
        _, ids = np.unique(together.reshape(len(together), -1), axis=0, return_inverse=True)
        return np.asarray(together[_run_starts(ids.reshape(-1))])

    lengths = [len(tensor.data) for tensor in tensors]
    extents = [tensor.shape[0] for tensor in tensors]
    offsets: list[Array | None] = [tensor.offset for tensor in tensors]
    scales: list[Array | None] = [tensor.scale for tensor in tensors]
    first = tensors[0]
    if any(offset is not None for offset in offsets):
        dtype = first.data.dtype if first.lut is None else first.lut.dtype
        offsets = [
            np.zeros(tensor.scale.shape, dtype)
            if tensor.offset is None and tensor.scale is not None
            else offset
            for tensor, offset in zip(tensors, offsets, strict=True)
        ]
        # As scale and offset have one shape, both are kept for each row.
        scale: Array | None = _by_row(scales, extents)
        offset: Array | None = _by_row(offsets, extents)
    else:
        scale, offset = joined(scales, extents), None
    masks = [tensor.mask for tensor in tensors if tensor.mask is not None]
    return replace(
        first,
        data=np.concatenate([tensor.data for tensor in tensors]),
        mask=np.concatenate(masks) if masks else None,
        lut=joined([tensor.lut for tensor in tensors], lengths),
        scale=scale,
        offset=offset,
    )


def _by_row(parts: Sequence[Array | None], extents: Sequence[int]) -> Array:
    return np.concatenate(
        [
            np.repeat(part, extent // len(part), 0)
            for part, extent in zip(parts, extents, strict=True)
            if part is not None
        ]
    )


def repeated(values: Array, shape: Sequence[int]) -> Array:
    """One value a block made one value an element of `shape`; each count divides the extent."""
    for axis, extent in enumerate(shape):
        if values.shape[axis] != extent:
            values = np.repeat(values, extent // values.shape[axis], axis=axis)
    return values


def _any_in_blocks(where: npt.NDArray[np.bool_], counts: Sequence[int]) -> npt.NDArray[np.bool_]:
    split = [
        part for extent, count in zip(where.shape, counts, strict=True) for part in (count, extent // count)
    ]
    return np.asarray(where.reshape(split).any(axis=tuple(range(1, 2 * where.ndim, 2))))


def _runs(groups: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The group of each row made the group of each run of rows, in the longest runs of one length."""
    return groups[_run_starts(groups)]


def _run_starts(groups: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    changes = np.flatnonzero(np.diff(groups)) + 1
    size = math.gcd(len(groups), *(int(change) for change in changes))
    return np.arange(0, len(groups), max(size, 1))
