"""Palettes of many weights, clustered softly in one go, to the same bits as one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_compress.dkm.duplicates import spread_duplicates
from lightning_compress.dkm.scalars_at_once import Scalars, palettize_at_once, serves
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
    """Whether a weight can be clustered together with others: softly, whole and as it is, by a case for C."""
    return (
        form.cluster_dim == 1
        and form.axes is None
        and form.scale_scheme is None
        and form.soft_share == 1
        and form.clustering.mode == form.clustering.estimator == "dkm"
        and serves(weight, form.clustering)
        and weight.numel() > 0
    )


def cluster_together(weights: Sequence[PalettizedWeight]) -> list[tuple[Tensor, Tensor]]:
    """Cluster weights that `joins` accepts softly around their palettes, bit by bit as `WeightPalette.cluster`.

    Gradients by the weights may come back for some of them at a time, and more than once.

    Returns:
        For each its clustered weight and its improved palettes, as `WeightPalette.cluster`.

    Raises:
        WeightError: If a weight holds NaN or infinity, with its name.
    """
    alike: dict[tuple[int, int, float, bool], list[int]] = {}
    for index, each in enumerate(weights):
        form = each.form
        kind = (form.n_clusters, form.first_free, form.repetition_tolerance, form.keep_zeros)
        alike.setdefault(kind, []).append(index)
    order = [index for indices in alike.values() for index in indices]
    spread = [
        spread_duplicates(
            torch.cat([weights[index].entries for index in indices]),
            first_free=first_free,
            tolerance=tolerance,
        )
        for (_, first_free, tolerance, _), indices in alike.items()
    ]
    # The entry that stands for zeros alone is not clustered.
    free = [entries[:, int(keep_zeros) :] for (*_, keep_zeros), entries in zip(alike, spread, strict=True)]
    with torch.autocast(device_type="cpu", enabled=False):
        outputs, values = palettize_at_once(
            [weights[index].weight for index in order],
            torch.cat([entries.reshape(-1) for entries in free]).double(),
            [_scalars(weights[index]) for index in order],
        )
    updated: list[Tensor] = []
    parts = torch.split(values.detach(), [entries.numel() for entries in free])
    for indices, entries, own, part in zip(alike.values(), spread, free, parts, strict=True):
        improved = part.to(entries.dtype).view_as(own)
        if own.shape != entries.shape:
            improved = torch.cat((torch.zeros_like(entries[:, :1]), improved), dim=1)
        updated += torch.split(improved, [weights[index].entries.shape[0] for index in indices])
    results: list[tuple[Tensor, Tensor]] = [None] * len(weights)  # type: ignore[list-item]
    for index, output, improved in zip(order, outputs, updated, strict=True):
        results[index] = (weights[index].form.stored_softly(output), improved)
    return results


def _scalars(each: PalettizedWeight) -> Scalars:
    form, keep_zeros = each.form, each.form.keep_zeros
    clustering = replace(
        form.clustering,
        fix_zero=form.enforce_zero and not keep_zeros,
        zero_preference=form.zero_preference,
    )
    groups, clusters, _ = each.entries.shape
    return Scalars(groups, clusters - int(keep_zeros), clustering, keep_zeros, f"{form.name}: the weight")
