"""Palettes of many weights, clustered softly in one go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_compress.dkm import scalars_at_once, scalars_on_one_grid
from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.duplicates import spread_duplicates
from lightning_compress.dkm.native.scalars import Scalars
from lightning_compress.dkm.scalars_on_one_grid import OnOneGrid
from lightning_compress.dkm.weight_palette import WeightPalette


class PalettizedWeight(NamedTuple):
    """A weight and its palettes.

    Attributes:
        form: How the weight is palettized.
        weight: The weight.
        entries: Its palettes, (G, K, 1).
    """

    form: WeightPalette
    weight: Tensor
    entries: Tensor


def joins(form: WeightPalette, weight: Tensor) -> bool:
    """Whether a weight can be clustered with others: softly, whole and as it is, in C or on a device's grid."""
    return (
        form.cluster_dim == 1
        and form.axes is None
        and form.scale_scheme is None
        and form.soft_share == 1
        and form.clustering.mode == form.clustering.estimator == "dkm"
        and (
            scalars_at_once.serves(weight, form.clustering)
            or scalars_on_one_grid.serves(weight, form.clustering)
        )
        and weight.numel() > 0
    )


def cluster_together(weights: Sequence[PalettizedWeight]) -> list[tuple[Tensor, Tensor]]:
    """Cluster weights that `joins` accepts softly around their palettes, as `WeightPalette.cluster` does.

    On a processor the results are the same bits. Gradients by the weights may come back for some of them at a time, and
    more than once.

    Returns:
        For each its clustered weight and its improved palettes, as `WeightPalette.cluster`.

    Raises:
        WeightError: If a weight holds NaN or infinity, with its name (on the CPU; elsewhere looking would make the host
            wait).
    """
    alike: dict[_Kind, list[int]] = {}
    for index, each in enumerate(weights):
        alike.setdefault(_Kind.of(each), []).append(index)
    batches = [
        _Batch(kind, indices, [weights[index] for index in indices]) for kind, indices in alike.items()
    ]
    at_once = [batch for batch in batches if batch.kind.at_once]
    results: dict[int, tuple[Tensor, Tensor]] = {}
    for together in ([at_once] if at_once else []) + [[batch] for batch in batches if not batch.kind.at_once]:
        with torch.autocast(device_type=together[0].kind.device.type, enabled=False):
            outputs, improved = _at_once(together) if together is at_once else _on_one_grid(together[0])
        taken = iter(outputs)
        for batch, values in zip(together, improved, strict=True):
            results |= batch.results(taken, values)
    return [results[index] for index in range(len(weights))]


class _Kind(NamedTuple):
    """What palettes have in common whose numbers can be in one tensor."""

    device: torch.device
    clusters: int
    first_free: int
    tolerance: float
    keep_zeros: bool
    clustering: Clustering
    at_once: bool

    @classmethod
    def of(cls, each: PalettizedWeight) -> _Kind:
        form = each.form
        return cls(
            each.weight.device,
            form.n_clusters,
            form.first_free,
            form.repetition_tolerance,
            form.keep_zeros,
            form.clustering_with_zeros,
            scalars_at_once.serves(each.weight, form.clustering),
        )


class _Batch:
    """Weights of one kind, and their palettes in one tensor.

    Attributes:
        kind: What they have in common.
        weights: The weights.
        centroids: Those of their centroids that are clustered, (G, K, 1) of all of them.
    """

    def __init__(self, kind: _Kind, indices: Sequence[int], weights: Sequence[PalettizedWeight]) -> None:
        self.kind = kind
        self.weights = weights
        self._indices = indices
        self._entries = spread_duplicates(
            torch.cat([each.entries for each in weights]),
            first_free=kind.first_free,
            tolerance=kind.tolerance,
        )
        # The entry that stands for zeros alone is not clustered.
        self.centroids = self._entries[:, int(kind.keep_zeros) :]

    @property
    def groups(self) -> list[int]:
        """The number of palettes of each weight."""
        return [each.entries.shape[0] for each in self.weights]

    @property
    def names(self) -> list[str]:
        """What each weight is called in errors."""
        return [f"{each.form.name}: the weight" for each in self.weights]

    def results(self, outputs: Iterator[Tensor], improved: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """What each weight, by its index, has come to: the next of the outputs, and its part of the centroids."""
        improved = improved.detach().to(self._entries.dtype).view_as(self.centroids)
        if self.kind.keep_zeros:
            improved = torch.cat((torch.zeros_like(self._entries[:, :1]), improved), dim=1)
        palettes = torch.split(improved, self.groups)
        return {
            index: (each.form.stored_softly(next(outputs)), own)
            for index, each, own in zip(self._indices, self.weights, palettes, strict=True)
        }


def _at_once(batches: Sequence[_Batch]) -> tuple[list[Tensor], Sequence[Tensor]]:
    """Weights of all kinds in one call into C: the clustered ones, and the improved centroids of each batch."""
    outputs, improved = scalars_at_once.palettize_at_once(
        [each.weight for batch in batches for each in batch.weights],
        torch.cat([batch.centroids.reshape(-1) for batch in batches]).double(),
        [
            Scalars(groups, batch.centroids.shape[1], batch.kind.clustering, batch.kind.keep_zeros, name)
            for batch in batches
            for groups, name in zip(batch.groups, batch.names, strict=True)
        ],
    )
    return outputs, torch.split(improved, [batch.centroids.numel() for batch in batches])


def _on_one_grid(batch: _Batch) -> tuple[list[Tensor], Sequence[Tensor]]:
    kind = batch.kind
    outputs, improved = scalars_on_one_grid.palettize_on_one_grid(
        [each.weight for each in batch.weights],
        batch.centroids.squeeze(-1),
        OnOneGrid(kind.clustering, kind.keep_zeros, tuple(batch.groups)),
    )
    return outputs, [improved]
