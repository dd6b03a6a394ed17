"""Differentiable k-means of scalars in C: whole clusterings of any number of weights in one call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.grid import POINTS
from lightning_compress.dkm.native.library import attention_options, early_stop, entry, has, threads
from lightning_compress.errors import WeightError

_MOST_PANELS = 1 << 14
"""Panels of a group, of many scalars."""

_STEEP = 2
"""The kind of panels that were laid out around steep switches."""

_DONE, _NO_MEMORY, _NOT_FINITE = range(3)
"""What a clustering ended with."""


def serves_scalars(weight: Tensor) -> bool:
    """Whether a weight of scalars can be clustered in one call: single precision on a processor."""
    return weight.device.type == "cpu" and weight.dtype != torch.float64 and has("cluster_scalars")


class _Layer(ctypes.Structure):
    """As `Layer` in scalars.h, which explains it."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in ("weight", "palettes", "numbers", "room", "updated", "updates", "places", "output")
        ),
        *((name, ctypes.c_void_p) for name in ("upstream", "by_updated", "by_weight", "by_palettes")),
        *(
            (name, ctypes.c_int64)
            for name in ("groups", "count", "clusters", "iterations", "fix_zero", "skip_zeros")
        ),
        *((name, ctypes.c_double) for name in ("epsilon", "temperature", "floor", "zero_preference")),
        *((name, ctypes.c_int64) for name in ("kind", "panels", "bins", "kept", "status")),
    ]


class Scalars(NamedTuple):
    """How a weight of scalars is clustered.

    Attributes:
        groups: Number G of its equal parts with a palette each.
        clusters: Number K of centroids of a palette.
        clustering: What to do.
        keep_zeros: Whether zeros take no part and stay zero.
        name: What it is called in errors.
    """

    groups: int
    clusters: int
    clustering: Clustering
    keep_zeros: bool
    name: str = "the weight"


class ScalarWeight(NamedTuple):
    """A weight that is clustered: contiguous, float32, (G, N), and how."""

    weight: Tensor
    how: Scalars


class ClusteredScalars:
    """Weights clustered softly in one call, and what their derivatives need.

    Args:
        weights: The weights; they are held, and must not change until the derivatives are taken.
        palettes: Their first palettes, (G, K) of each one after another, float64.

    Raises:
        WeightError: If a weight holds NaN or infinity.
        MemoryError: If there was no room for a few numbers.
    """

    def __init__(self, weights: Sequence[ScalarWeight], palettes: Tensor) -> None:
        self._weights = list(weights)
        self._layers = (_Layer * len(weights))()
        outputs = [torch.empty_like(each.weight) for each in weights]
        self._places: list[Tensor | None] = [torch.empty_like(each.weight) for each in weights]
        updated = torch.empty_like(palettes)
        rooms = [_room(each) for each in weights]
        numbers = [_numbers(each) for each in weights]
        self._numbers = torch.empty(sum(numbers), dtype=torch.float64)
        self._updates = torch.empty(sum(each.how.groups for each in weights), dtype=torch.int64)
        # Room that is not touched costs nothing.
        room = torch.empty(sum(rooms), dtype=torch.float64)
        at = _Addresses(palettes, updated, self._numbers, self._updates, room)
        for layer, each, output, places, own_room, own_numbers in zip(
            self._layers, weights, outputs, self._places, rooms, numbers, strict=True
        ):
            assert places is not None
            _describe(layer, each)
            own_palettes = layer.groups * layer.clusters
            layer.palettes, layer.updated = at.take(0, own_palettes), at.take(1, own_palettes)
            layer.numbers, layer.updates = at.take(2, own_numbers), at.take(3, layer.groups)
            layer.room, layer.places, layer.output = (
                at.take(4, own_room),
                places.data_ptr(),
                output.data_ptr(),
            )
        self._call("cluster_scalars", self._layers)
        self._results: tuple[list[Tensor], Tensor] | None = (outputs, updated)
        # A copy, so that what was not needed of the room is free again.
        self._kept = torch.cat(
            [
                room[start : start + layer.kept]
                for start, layer in zip(_starts(rooms), self._layers, strict=False)
            ]
        )
        kept = _Addresses(self._kept)
        for index, layer in enumerate(self._layers):
            layer.room = kept.take(0, layer.kept)
            if layer.kind != _STEEP:
                self._places[index] = layer.places = None
            # What is not read again need not be there any more.
            layer.palettes = layer.updated = layer.output = None

    def take(self) -> tuple[list[Tensor], Tensor]:
        """The clustered weights, (G, N) each, and the improved palettes, as the first; called once."""
        # Who keeps this for the derivatives of what is taken must not keep that too.
        results, self._results = self._results, None
        assert results is not None
        return results

    def differentiate(
        self, upstream: Sequence[Tensor | None], by_updated: Tensor | None
    ) -> tuple[list[Tensor | None], Tensor]:
        """Derivatives of a loss by the weights, (G, N) each, and by the first palettes, as these.

        Args:
            upstream: The loss's gradient by each clustered weight, contiguous, float32, (G, N); None for weights that
                are left out, whose derivatives are None and zeros.
            by_updated: The loss's gradient by the improved palettes, as these, or None for zeros.
        """
        chosen = [index for index, gradient in enumerate(upstream) if gradient is not None]
        layers = (_Layer * len(chosen))(*(self._layers[index] for index in chosen))
        results: list[Tensor | None] = [None] * len(upstream)
        starts = _starts([each.how.groups * each.how.clusters for each in self._weights])
        by_palettes = torch.zeros(starts[-1], dtype=torch.float64)
        by_updated = torch.zeros_like(by_palettes) if by_updated is None else by_updated.contiguous()
        size = by_palettes.element_size()
        for layer, index in zip(layers, chosen, strict=True):
            gradient = upstream[index]
            assert gradient is not None
            result = results[index] = torch.empty_like(self._weights[index].weight)
            layer.upstream, layer.by_weight = gradient.data_ptr(), result.data_ptr()
            layer.by_updated = by_updated.data_ptr() + starts[index] * size
            layer.by_palettes = by_palettes.data_ptr() + starts[index] * size
        self._call("differentiate_scalars", layers)
        return results, by_palettes

    def _call(self, function: str, layers: ctypes.Array[_Layer]) -> None:
        status = entry(function)(threads(), torch.get_num_threads(), len(layers), layers)
        if status == _NOT_FINITE:
            bad = next(index for index, layer in enumerate(layers) if layer.status == _NOT_FINITE)
            raise WeightError(f"{self._weights[bad].how.name} holds NaN or infinity")
        if status != _DONE:
            raise MemoryError(f"{function} found no memory")


class _Addresses:
    """Hands out the memory of tensors piece by piece."""

    def __init__(self, *tensors: Tensor) -> None:
        self._next = [tensor.data_ptr() for tensor in tensors]
        self._size = [tensor.element_size() for tensor in tensors]

    def take(self, tensor: int, count: int) -> int:
        """The address of the next `count` elements of one of the tensors."""
        address = self._next[tensor]
        self._next[tensor] += count * self._size[tensor]
        return address


def _describe(layer: _Layer, each: ScalarWeight) -> None:
    clustering = each.how.clustering
    layer.weight = each.weight.data_ptr()
    layer.groups, layer.count = each.weight.shape
    layer.clusters, layer.iterations, layer.epsilon = (
        each.how.clusters,
        clustering.iterations,
        early_stop(clustering),
    )
    (
        layer.temperature,
        layer.floor,
        layer.zero_preference,
        layer.fix_zero,
        layer.skip_zeros,
    ) = attention_options(clustering, each.how.keep_zeros)


def _room(each: ScalarWeight) -> int:
    groups, count = each.weight.shape
    return groups * (min(_MOST_PANELS, count // POINTS) + 2) * (POINTS + 1)


def _numbers(each: ScalarWeight) -> int:
    how = each.how
    return how.groups * ((2 * how.clustering.iterations + 1) * how.clusters + 4)


def _starts(sizes: Sequence[int]) -> list[int]:
    """Where pieces of such sizes begin, one after another, and where the last ends."""
    return [0, *accumulate(sizes)]
