"""Palettes of one weight: how it is laid out, scaled, grouped, clustered while training, and assigned in the end.

Nothing here holds state: palettes and scales come in and go out, whoever keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.duplicates import lost_entries, spread_duplicates
from lightning_compress.dkm.functional import palettize
from lightning_compress.dkm.hard import assign_vectors
from lightning_compress.dkm.initial import first_palette
from lightning_compress.dkm.lloyd import nearest
from lightning_compress.dkm.lut import RoundedPalette, round_palette
from lightning_compress.dkm.scales import channel_scales
from lightning_compress.dkm.vectors import from_vectors, to_vectors
from lightning_compress.errors import WeightError

LUT_DTYPES = {
    "f32": "f32",
    "float32": "f32",
    "f16": "f16",
    "float16": "f16",
    # The configuration's documentation says bf16, coremltools' code b16.
    "bf16": "bf16",
    "b16": "bf16",
    "bfloat16": "bf16",
    "i8": "i8",
    "int8": "i8",
    "u8": "u8",
    "uint8": "u8",
}
"""Names of the types that entries of a palette may have."""

_HALVES = {"f16": torch.float16, "bf16": torch.bfloat16}

_SAME = 1e-3
"""Entries nearer to one another than this share of the weights' standard deviation are one."""

_LEAST_OF_VECTORS = 0.01
"""What the least important element of a vector counts, as a share of what elements do on average."""


class Palettes(NamedTuple):
    """What is learned for a weight.

    Attributes:
        entries: The centroids, (G, K, D), in full precision.
        scales: What each channel is divided by before, (C, 1), or None for nothing.
    """

    entries: Tensor
    scales: Tensor | None


@dataclass(frozen=True)
class WeightPalette:
    """How a weight is palettized.

    Attributes:
        name: Name of the weight, for errors.
        n_clusters: Number K of centroids of a palette.
        clustering: The differentiable k-means.
        cluster_dim: Number D of neighbouring channels that a centroid stands for.
        group_size: Number of channels that share a palette; all of them by default.
        axes: Order of the weight's axes, the channels' first; as they are by default.
        scale_scheme: How each channel is scaled, "min_max" or "abs", or not at all.
        lut_dtype: Type of the entries as they will be stored, a value of `LUT_DTYPES`.
        first: How the first palette is found (coremltools' `kmeans_init`).
        enforce_zero: Whether the first centroid is zero.
        prune_threshold: How much nearer, in squared distance, a first centroid of zero seems than it is.
        keep_zeros: Whether zeros stay zeros, and the first centroid, zero, stands for them alone.
        soft_share: Share of the groups that are clustered softly; the others are assigned to their first palettes.
        repetition_tolerance: Share of the centroids that may be repeated.
    """

    name: str
    n_clusters: int
    clustering: Clustering
    cluster_dim: int = 1
    group_size: int | None = None
    axes: tuple[int, ...] | None = None
    scale_scheme: str | None = None
    lut_dtype: str = "f32"
    first: str = "auto"
    enforce_zero: bool = False
    prune_threshold: float = 0.0
    keep_zeros: bool = False
    soft_share: float = 1.0
    repetition_tolerance: float = 0.0

    # Shapes, which follow from the configuration and the weight's shape alone.

    @property
    def channel_axis(self) -> int:
        """The axis of the channels in the weight itself."""
        return 0 if self.axes is None else self.axes[0]

    def palette_shape(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Shape (G, K, D) of the palettes of a weight of `shape`."""
        channels = shape[self.channel_axis]
        groups = 1 if self.group_size is None else channels // self.group_size
        return max(groups, 1), self.n_clusters, self.cluster_dim

    def scales_shape(self, shape: Sequence[int]) -> tuple[int, int]:
        """Shape (C, 1) of the scales of a weight of `shape`."""
        return shape[self.channel_axis], 1

    def along_channels(self, tensor: Tensor, rank: int) -> Tensor:
        """Spread the first axis of a tensor over `rank` axes of which the channels' holds it; the others follow."""
        axes = [1] * rank
        axes[self.channel_axis] = tensor.shape[0]
        return tensor.reshape(*axes, *tensor.shape[1:])

    # Values.

    @torch.no_grad()
    def begin(self, weight: Tensor, importance: Tensor | None = None) -> Palettes:
        """Make scales and first palettes from a weight.

        Args:
            weight: Finite.
            importance: How much the square of each element's error counts, of the weight's shape; all the same by
                default.

        Raises:
            WeightError: If the weight holds NaN or infinity.
        """
        self.check_finite(weight)
        precise = weight.detach().to(precision(weight.dtype))
        scales = None
        if self.scale_scheme is not None:
            scales = channel_scales(self._arranged(precise), self.scale_scheme)
        values = self._scaled(precise, scales)
        entries = first_palette(
            self._vectors(values),
            self.n_clusters,
            algorithm=self.first,
            fix_zero=self.enforce_zero,
            keep_zeros=self.keep_zeros,
            weights=None if importance is None else self._counting(importance, scales),
        )
        return Palettes(entries.to(values), scales)

    def cluster(self, weight: Tensor, palettes: Palettes) -> tuple[Tensor, Tensor]:
        """Cluster a weight softly around its palettes; differentiable by the weight.

        Returns:
            The clustered weight, of its shape and type, and the improved palettes, (G, K, D).
        """
        values = self._scaled(weight, palettes.scales)
        groups = palettes.entries.shape[0]
        soft = max(1, min(groups, int(self.soft_share * groups)))
        channels = values.shape[0] // groups * soft
        entries = spread_duplicates(
            palettes.entries[:soft], first_free=self.first_free, tolerance=self.repetition_tolerance
        )
        clustering = self.clustering
        try:
            clustered, updated = palettize(
                values[:channels],
                entries,
                temperature=clustering.temperature,
                iterations=clustering.iterations,
                epsilon=clustering.epsilon,
                attention_floor=clustering.attention_floor,
                fix_zero=self.enforce_zero,
                zero_preference=self.zero_preference,
                keep_zeros=self.keep_zeros,
                mode=clustering.mode,
                estimator=clustering.estimator,
                exact=clustering.exact,
                native=clustering.native,
                path=clustering.path,
            )
        except WeightError as error:
            raise WeightError(f"{self.name}: {error}") from None
        updated = updated.detach()
        if soft < groups:
            rest = self._assigned(values[channels:].detach(), palettes.entries[soft:])
            clustered = torch.cat((clustered, rest.to(clustered.dtype)))
            updated = torch.cat((updated, palettes.entries[soft:]))
        return self.stored_softly(self._unscaled(clustered, palettes.scales, weight.dtype)), updated

    def stored_softly(self, clustered: Tensor) -> Tensor:
        """A softly clustered weight, rounded to the type of the entries if that is a half one."""
        if self.lut_dtype not in _HALVES:
            return clustered
        return clustered.to(_HALVES[self.lut_dtype]).to(clustered.dtype)

    @torch.no_grad()
    def assign(self, weight: Tensor, palettes: Palettes) -> Tensor:
        """The weight as it will be stored: each value an entry of its rounded palette, times its channel's scale."""
        values = self._scaled(weight, palettes.scales)
        assigned = self._assigned(values, self.rounded(palettes.entries).values)
        return self._unscaled(assigned, palettes.scales, weight.dtype)

    @torch.no_grad()
    def indices(self, weight: Tensor, palettes: Palettes, importance: Tensor | None = None) -> Tensor:
        """Which entry of its rounded palette each vector is nearest to.

        Args:
            weight: Any.
            palettes: Its palettes.
            importance: As `begin` takes it; it matters to vectors, whose elements it weighs.

        Returns:
            (G, N), uint8; `look_up` makes the weight of them.
        """
        values = self._vectors(self._scaled(weight, palettes.scales), len(palettes.entries))
        entries = self.rounded(palettes.entries).values
        counts: Sequence[Tensor | None] | Tensor = [None] * len(entries)
        if importance is not None and self.cluster_dim > 1:
            counts = self._counting(importance, palettes.scales)
        found = [
            self._nearest(points.to(palette.dtype), palette, weights)
            for points, palette, weights in zip(values, entries, counts, strict=True)
        ]
        return torch.stack(found).to(torch.uint8)

    @torch.no_grad()
    def look_up(self, indices: Tensor, palettes: Palettes, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """The weight, of a shape and type, that indices of its palettes stand for."""
        entries = self.rounded(palettes.entries).values
        vectors = torch.stack([palette[index.int()] for palette, index in zip(entries, indices, strict=True)])
        arranged = torch.Size(shape if self.axes is None else [shape[axis] for axis in self.axes])
        return self._unscaled(from_vectors(vectors, arranged), palettes.scales, dtype)

    def _nearest(self, points: Tensor, palette: Tensor, weights: Tensor | None) -> Tensor:
        first = int(self.keep_zeros)
        if self.cluster_dim == 1:
            ordered, order = palette[first:, 0].sort(stable=True)
            middle = ordered[:-1] + (ordered[1:] - ordered[:-1]) / 2
            index = order[torch.bucketize(points[:, 0].contiguous(), middle)] if len(order) else None
        else:
            index = nearest(points, palette[first:], weights=weights)[0] if len(palette) > first else None
        if not self.keep_zeros:
            assert index is not None
            return index
        zero = (points == 0).all(dim=-1)
        return torch.zeros_like(zero, dtype=torch.long) if index is None else torch.where(zero, 0, index + 1)

    def _counting(self, importance: Tensor, scales: Tensor | None) -> Tensor:
        """What the squared error of each element of a vector counts, (G, N, D)."""
        values = self._arranged(importance.to(torch.float32))
        if self.cluster_dim > 1:
            # A vector goes where its important elements say; nothing else would bound the errors of the others.
            values = values.clamp_min(_LEAST_OF_VECTORS * float(values.mean()))
        # An error of what is divided by a scale is one of the weight once it is multiplied again.
        return self._vectors(values if scales is None else values * _channel_view(scales, values).square())

    @torch.no_grad()
    def shares(self, weight: Tensor, palettes: Palettes) -> Tensor:
        """The share of each group's vectors that each entry stands for, (G, K)."""
        entries = self.rounded(palettes.entries).values
        values = self._scaled(weight, palettes.scales)
        vectors = self._vectors(self._assigned(values, entries)).to(entries.dtype)
        counts = [
            torch.bincount(nearest(group, palette)[0], minlength=self.n_clusters)
            for group, palette in zip(vectors, entries, strict=True)
        ]
        return torch.stack(counts) / vectors.shape[1]

    @torch.no_grad()
    def lost_entries(self, weight: Tensor, palettes: Palettes) -> Tensor:
        """The greatest share of a palette's entries that lie where others do, to a thousandth of the spread."""
        spread = self._scaled(weight, palettes.scales).std(correction=0)
        return lost_entries(palettes.entries, _SAME * spread)

    @torch.no_grad()
    def variance(self, weight: Tensor, scales: Tensor | None) -> float:
        """The variance of what is palettized: of scaled values, and of those alone that are not held at zero."""
        values = self._scaled(weight.detach().to(precision(weight.dtype)), scales)
        if self.keep_zeros:
            values = values[values != 0]
        return float(values.double().var(correction=0)) if values.numel() else 0.0

    def rounded(self, entries: Tensor) -> RoundedPalette:
        """Palettes rounded to the type in which they will be stored."""
        return round_palette(entries, self.lut_dtype)

    @property
    def first_free(self) -> int:
        """The number of centroids in front that are held where they are."""
        return int(self.keep_zeros or self.enforce_zero)

    @cached_property
    def clustering_with_zeros(self) -> Clustering:
        """The differentiable k-means, with what it does with zeros."""
        # Asked for by each weight in each step.
        return replace(
            self.clustering,
            fix_zero=self.enforce_zero and not self.keep_zeros,
            zero_preference=self.zero_preference,
        )

    @property
    def zero_preference(self) -> float:
        """How much nearer, in squared distance, the first centroid seems than it is."""
        return self.prune_threshold if self.enforce_zero and not self.keep_zeros else 0.0

    def check_finite(self, weight: Tensor) -> None:
        """Refuse a weight that cannot be clustered.

        Raises:
            WeightError: If it holds NaN or infinity, with its name.
        """
        finite = torch.isfinite(weight)
        if not bool(finite.all()):
            bad = weight[~finite][0].item()
            raise WeightError(f"{self.name} holds {bad}: weights must be finite to be palettized")

    def _arranged(self, weight: Tensor) -> Tensor:
        return weight if self.axes is None else weight.permute(self.axes)

    def _scaled(self, weight: Tensor, scales: Tensor | None) -> Tensor:
        values = self._arranged(weight)
        return values if scales is None else values.to(scales.dtype) / _channel_view(scales, values)

    def _unscaled(self, values: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
        if scales is not None:
            values = values * _channel_view(scales, values)
        values = values.to(dtype)
        if self.axes is None:
            return values
        return values.permute(sorted(range(values.dim()), key=self.axes.__getitem__))

    def _vectors(self, values: Tensor, groups: int | None = None) -> Tensor:
        if groups is None:
            groups = 1 if self.group_size is None else values.shape[0] // self.group_size
        return to_vectors(values, groups, self.cluster_dim)

    def _assigned(self, values: Tensor, entries: Tensor) -> Tensor:
        vectors = assign_vectors(
            self._vectors(values, entries.shape[0]),
            entries,
            zero_preference=self.zero_preference,
            keep_zeros=self.keep_zeros,
        )
        return from_vectors(vectors, values.shape)


def precision(dtype: torch.dtype) -> torch.dtype:
    """The type of palettes and scales of weights of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _channel_view(scales: Tensor, values: Tensor) -> Tensor:
    return scales.view(-1, *[1] * (values.dim() - 1))
