"""Differentiable k-means of scalars in C: a whole clustering in one call."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.grid import POINTS
from lightning_compress.dkm.native.library import attention_options, call, early_stop, has, threads

_MOST_PANELS = 1 << 14
"""Panels of a group, of many scalars."""

_ONE_BY_ONE, _EQUAL, _STEEP = range(3)
"""Kinds of panels: none, without edges, with edges."""


def serves_scalars(weight: Tensor) -> bool:
    """Whether a weight of scalars can be clustered in one call: single precision on a processor."""
    return weight.device.type == "cpu" and weight.dtype != torch.float64 and has("cluster_scalars")


class ClusteredScalars(NamedTuple):
    """What the derivatives of a clustering need.

    Attributes:
        trace: The palettes before the first update and after each, (iterations + 1, G, K).
        attended: The attention that each update paid to each centroid, (iterations, G, K); 0 where none was.
        done: How many updates were made before an early stop, (G,).
        shape: The kind of panels, their number, and that of bins on each, (3,).
        starts: Where the bins of each group begin, (G,).
        steps: The width of a bin, (G,).
        edges: Of panels that are not equal, (G, panels + 1).
        masses: The weights' masses on the points of panels, (G, points).
    """

    trace: Tensor
    attended: Tensor
    done: Tensor
    shape: Tensor
    starts: Tensor
    steps: Tensor
    edges: Tensor
    masses: Tensor


def cluster(
    weight: Tensor, low: Tensor, high: Tensor, palettes: Tensor, clustering: Clustering, *, skip_zeros: bool
) -> tuple[Tensor, ClusteredScalars]:
    """Cluster scalars softly.

    Args:
        weight: Contiguous and finite, (G, N).
        low: Least weight of each group, (G,), float64.
        high: Greatest weight of each group.
        palettes: Shape (G, K), float64.
        clustering: What to do.
        skip_zeros: Zeros take no part and stay zero.

    Returns:
        The clustered weight and what `differentiate` needs.
    """
    groups, clusters = palettes.shape
    iterations = clustering.iterations
    numbers = torch.empty((2 * iterations + 1) * groups * clusters + 2 * groups, dtype=torch.float64)
    # Room that is not touched costs nothing.
    most = min(_MOST_PANELS, weight.shape[1] // POINTS) + 2
    edges = torch.empty(groups * most, dtype=torch.float64)
    masses = torch.empty(groups * most * POINTS, dtype=torch.float64)
    sizes = [(iterations + 1) * groups * clusters, iterations * groups * clusters, groups, groups]
    trace, attended, starts, steps = torch.split(numbers, sizes)
    trace[: groups * clusters] = palettes.reshape(-1)
    whole = torch.empty(groups + 3, dtype=torch.int64)
    done, shape = torch.split(whole, [groups, 3])
    output = torch.empty_like(weight)
    call(
        "cluster_scalars",
        threads(),
        torch.get_num_threads(),
        weight,
        *weight.shape,
        low,
        high,
        clusters,
        iterations,
        early_stop(clustering),
        *attention_options(clustering, skip_zeros),
        trace,
        attended,
        done,
        shape,
        starts,
        steps,
        edges,
        masses,
        output,
    )
    kind, panels, _ = shape.tolist()
    # Copies, so that what was not needed of the room is free again.
    edges = edges[: groups * (panels + 1) if kind == _STEEP else 0].clone()
    masses = masses[: groups * panels * POINTS if kind != _ONE_BY_ONE else 0].clone()
    return output, ClusteredScalars(
        trace.view(iterations + 1, groups, clusters),
        attended.view(iterations, groups, clusters),
        done,
        shape,
        starts,
        steps,
        edges,
        masses,
    )


def differentiate(
    weight: Tensor,
    upstream: Tensor,
    by_last: Tensor,
    clustered: ClusteredScalars,
    clustering: Clustering,
    *,
    skip_zeros: bool,
) -> tuple[Tensor, Tensor]:
    """Derivatives of a loss by the weight, (G, N), and by the first palettes, (G, K).

    Args:
        weight: As in the forward pass.
        upstream: The loss's gradient by the clustered weight, contiguous, (G, N).
        by_last: The loss's gradient by the last palettes, (G, K), float64.
        clustered: As `cluster` returned it.
        clustering: The same.
        skip_zeros: The same.
    """
    by_weight, by_first = torch.empty_like(weight), torch.empty_like(by_last)
    trace, attended, done, shape, starts, steps, edges, masses = clustered
    call(
        "differentiate_scalars",
        threads(),
        torch.get_num_threads(),
        weight,
        upstream,
        *weight.shape,
        by_last.shape[1],
        *attention_options(clustering, skip_zeros),
        trace,
        attended,
        done,
        shape,
        starts,
        steps,
        edges,
        masses,
        by_last.contiguous(),
        by_weight,
        by_first,
    )
    return by_weight, by_first
