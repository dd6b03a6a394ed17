"""From a tensor's dense values to how they are stored, without any data.

A float16 weight has at most 65,536 different values, so k-means needs how often each occurs and not the weights
themselves. One count serves every number of bits.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lightning_compress.coreml.compressed import CompressedTensor, repeated
from lightning_compress.coreml.post_training.form import INTEGER_BITS, PostTrainingForm
from lightning_compress.dkm import lloyd
from lightning_compress.kmeans import ValueCounts, assign, count_float16, kmeans_1d
from lightning_compress.package.constexpr import palette_blocks

Array = npt.NDArray[Any]


class DenseWeight:
    """A dense tensor, counted once, that can be stored in any form.

    Args:
        values: Floating point, finite.
        output_axis: Axis of the output channels.
        input_axis: Axis of the input channels; None where there is none.
    """

    def __init__(self, values: Array, output_axis: int, input_axis: int | None) -> None:
        self.values = values
        self.output_axis = output_axis
        self.input_axis = input_axis

    def reason_against(self, form: PostTrainingForm) -> str | None:
        """Why the tensor cannot be stored in a form, or None if it can."""
        for size, axis, what in (
            (form.group_size, self.output_axis, "output"),
            (form.block_size, self.input_axis, "input"),
        ):
            if size is None:
                continue
            extent = None if axis is None else self.values.shape[axis]
            if extent is None:
                return f"its {what} channels are not known"
            if extent % size:
                return f"{size} does not divide its {extent} {what} channels"
        dimensions = form.cluster_dim or 1
        if form.palettize is None or dimensions == 1:
            return None
        channels = form.group_size or self.values.shape[self.output_axis]
        if channels % dimensions:
            return f"vectors of {dimensions} do not divide its {channels} output channels"
        vectors = self.values.size // self.values.shape[self.output_axis] * channels // dimensions
        if vectors < 2**form.palettize:
            return f"it has {vectors} vectors of {dimensions}, fewer than a palette of {2**form.palettize}"
        return None

    def stored(self, form: PostTrainingForm) -> CompressedTensor:
        """The tensor in a form that nothing speaks against."""
        mask = None if form.prune is None else _largest(self.values, form.prune)
        if form.palettize is not None and (form.cluster_dim or 1) > 1:
            return self._of_vectors(form, form.palettize, form.cluster_dim or 1)
        if form.palettize is not None:
            return self._palettized(form, form.palettize, mask)
        if form.quantize is not None:
            return self._quantized(form, INTEGER_BITS[form.quantize], mask)
        return CompressedTensor(self.values, 16, mask=mask)

    @cached_property
    def _counts(self) -> ValueCounts:
        return _count(self.values)

    def _palettized(
        self, form: PostTrainingForm, bits: int, mask: npt.NDArray[np.bool_] | None
    ) -> CompressedTensor:
        values = self.values
        groups = [1] * values.ndim
        if form.group_size is not None:
            groups[self.output_axis] = values.shape[self.output_axis] // form.group_size
        lut = np.zeros((*groups, 2**bits, 1), values.dtype)
        indices = np.zeros(values.shape, np.uint8)
        scale = np.ones(groups, np.float32) if form.quantize is not None else None
        for group, block in palette_blocks(tuple(groups), values.shape):
            part = values[block]
            if mask is None:
                counts = self._counts if part.size == values.size else _count(part)
            else:
                counts = _count(part[mask[block]])
            # Indices follow the entries as they are stored, not the centroids before rounding.
            entries = kmeans_1d(counts.values, counts.counts, 2**bits).astype(values.dtype)
            if scale is not None:
                entries, scale[group] = _integers_of_palette(entries)
            lut[group] = entries[:, None]
            looked_up = entries.astype(np.float64) * (1 if scale is None else float(scale[group]))
            indices[block] = _nearest(part, looked_up)
        if mask is not None:
            indices[~mask] = 0
        return CompressedTensor(
            indices, bits, mask, lut if scale is None else lut.astype(np.int8), scale=scale
        )

    def _of_vectors(self, form: PostTrainingForm, bits: int, dimensions: int) -> CompressedTensor:
        values, axis = self.values, self.output_axis
        split = values.reshape(*values.shape[:axis], -1, dimensions, *values.shape[axis + 1 :])
        vectors = np.moveaxis(split, axis + 1, -1)
        groups = [1] * values.ndim
        if form.group_size is not None:
            groups[axis] = values.shape[axis] // form.group_size
        lut = np.zeros((*groups, 2**bits, dimensions), values.dtype)
        indices = np.zeros(vectors.shape[:-1], np.uint8)
        scale = np.ones(groups, np.float32) if form.quantize is not None else None
        for group, block in palette_blocks(tuple(groups), indices.shape):
            turned = np.moveaxis(vectors[block], axis, -2)
            points = torch.from_numpy(turned.reshape(-1, dimensions).astype(np.float32))
            entries = lloyd.kmeans(points, 2**bits).numpy().astype(values.dtype)
            if scale is not None:
                entries, scale[group] = _integers_of_palette(entries)
            lut[group] = entries
            looked_up = entries.astype(np.float32) * (1 if scale is None else scale[group])
            found, _ = lloyd.nearest(points, torch.from_numpy(looked_up))
            indices[block] = np.moveaxis(found.numpy().reshape(turned.shape[:-1]), -1, axis)
        return CompressedTensor(
            indices, bits, None, lut if scale is None else lut.astype(np.int8), vector_axis=axis, scale=scale
        )

    def _quantized(
        self, form: PostTrainingForm, bits: int, mask: npt.NDArray[np.bool_] | None
    ) -> CompressedTensor:
        values = self.values.astype(np.float32)
        if mask is not None:
            values = np.where(mask, values, np.float32(0))
        counts = [1] * values.ndim
        counts[self.output_axis] = values.shape[self.output_axis]
        if form.block_size is not None and self.input_axis is not None:
            counts[self.input_axis] = values.shape[self.input_axis] // form.block_size
        split = [
            part
            for count, extent in zip(counts, values.shape, strict=True)
            for part in (count, extent // count)
        ]
        largest = np.abs(values).reshape(split).max(axis=tuple(range(1, 2 * values.ndim, 2)))
        limit = 2 ** (bits - 1) - 1
        scale = (np.where(largest > 0, largest, limit) / limit).astype(self.values.dtype).astype(np.float32)
        # A scale that its own type rounds to zero stores zeros.
        each = repeated(np.where(scale > 0, scale, 1), values.shape)
        integers = np.clip(np.rint(values / each), -limit - 1, limit).astype(np.int8)
        return CompressedTensor(integers, bits, mask, scale=scale)


def _largest(values: Array, sparsity: float) -> npt.NDArray[np.bool_]:
    """Where the largest magnitudes are; of equal ones the first are kept."""
    count = values.size - round(sparsity * values.size)
    order = np.argsort(-np.abs(values.reshape(-1).astype(np.float32)), kind="stable")
    mask = np.zeros(values.size, np.bool_)
    mask[order[:count]] = True
    return np.asarray(mask.reshape(values.shape) & (values != 0))


def _count(values: Array) -> ValueCounts:
    if values.dtype == np.float16:
        return count_float16(np.ascontiguousarray(values))
    distinct, counts = np.unique(values, return_counts=True)
    return ValueCounts(distinct.astype(np.float64), counts.astype(np.float64))


def _nearest(values: Array, entries: Array) -> npt.NDArray[np.uint8]:
    """Index of the nearest entry of each value."""
    if values.dtype != np.float16:
        return assign(values.astype(np.float64), entries).astype(np.uint8)
    # Each of the 65,536 values is looked for once, whatever the size of the tensor.
    patterns = np.ascontiguousarray(values).view(np.uint16)
    present = np.unique(patterns)
    index_of = np.zeros(1 << 16, dtype=np.uint8)
    index_of[present] = assign(present.view(np.float16).astype(np.float64), entries)
    return index_of[patterns]


def _integers_of_palette(entries: Array) -> tuple[npt.NDArray[np.int8], np.float32]:
    """A palette's entries as int8 with one scale."""
    largest = float(np.abs(entries.astype(np.float64)).max())
    scale = np.float32(np.dtype(entries.dtype).type(largest / 127)) if largest else np.float32(1)
    if scale == 0:
        return np.zeros(entries.shape, np.int8), np.float32(1)
    integers = np.clip(np.rint(entries.astype(np.float64) / float(scale)), -128, 127)
    return integers.astype(np.int8), scale
