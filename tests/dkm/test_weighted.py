"""K-means in which elements matter more or less."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.initial import count_values, first_palette
from lightning_compress.dkm.lloyd import kmeans, nearest
from lightning_compress.dkm.weight_palette import WeightPalette


def best_inertia(values: Tensor, weights: Tensor, clusters: int) -> float:
    """Of every way to cut sorted values into runs."""
    order = values.argsort()
    values, weights = values[order].double(), weights[order].double()
    least = float("inf")
    for cuts in itertools.combinations(range(1, len(values)), clusters - 1):
        total = 0.0
        for start, stop in itertools.pairwise((0, *cuts, len(values))):
            part, mass = values[start:stop], weights[start:stop]
            mean = (part * mass).sum() / mass.sum()
            total += float((mass * (part - mean).square()).sum())
        least = min(least, total)
    return least


@settings(max_examples=30, deadline=None)
@given(size=st.integers(5, 12), clusters=st.integers(1, 4), seed=st.integers(0, 1000))
def test_scalars_have_the_least_weighted_error_of_all_ways_to_cut_them(
    size: int, clusters: int, seed: int
) -> None:
    torch.manual_seed(seed)
    values, weights = torch.randn(size), torch.rand(size) ** 4 + 0.01
    palette = first_palette(values[None, :, None], clusters, weights=weights[None, :, None])[0, :, 0]
    distance = (values[:, None] - palette).square().min(dim=1).values
    found = float((weights.double() * distance).sum())
    assert found <= best_inertia(values, weights, clusters) * 1.001 + 1e-9


def test_binned_values_of_many_weights_keep_their_mass_and_mean() -> None:
    torch.manual_seed(0)
    values, weights = torch.randn(100_000), torch.rand(100_000)
    counted = count_values(values, weights)
    assert len(counted.values) <= 1 << 16
    assert counted.counts.sum() == pytest.approx(float(weights.double().sum()))
    assert (counted.counts * counted.values).sum() == pytest.approx(float((weights.double() * values).sum()))
    exact = count_values(values[:100].repeat(2), weights[:200])
    assert len(exact.values) == 100
    assert exact.counts.sum() == pytest.approx(float(weights[:200].double().sum()))


def test_weights_that_are_all_the_same_or_all_zero_change_nothing() -> None:
    torch.manual_seed(0)
    points = torch.randn(1, 500, 1)
    plain = first_palette(points, 8)
    torch.testing.assert_close(first_palette(points, 8, weights=torch.full_like(points, 3.0)), plain)
    assert torch.equal(first_palette(points, 8, weights=torch.zeros_like(points)), plain)
    vectors = torch.randn(300, 2)
    torch.testing.assert_close(kmeans(vectors, 8, torch.ones_like(vectors)), kmeans(vectors, 8))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), dimensions=st.integers(1, 4))
def test_vectors_are_nearest_by_the_weight_of_each_element(seed: int, dimensions: int) -> None:
    torch.manual_seed(seed)
    points, centroids = torch.randn(50, dimensions), torch.randn(6, dimensions)
    weights = torch.rand(50, dimensions)
    distances = (weights[:, None] * (points[:, None] - centroids).square()).sum(dim=-1)
    index, distance = nearest(points, centroids, weights=weights)
    torch.testing.assert_close(distance, distances.min(dim=1).values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        distances.gather(1, index[:, None])[:, 0], distances.min(dim=1).values, rtol=1e-4, atol=1e-5
    )


def test_centroids_of_vectors_are_weighted_means_and_better_than_plain_ones() -> None:
    torch.manual_seed(0)
    points, weights = torch.randn(400, 3), torch.rand(400, 3) ** 6
    weights = weights / weights.mean()
    centroids = kmeans(points, 8, weights)
    index, distance = nearest(points, centroids, weights=weights)
    assert float(distance.sum()) < 0.9 * float(nearest(points, kmeans(points, 8), weights=weights)[1].sum())
    for cluster in range(8):
        chosen = index == cluster
        mean = (weights[chosen] * points[chosen]).sum(0) / weights[chosen].sum(0)
        torch.testing.assert_close(centroids[cluster], mean, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("cluster_dim", [1, 2])
@pytest.mark.parametrize("keep_zeros", [False, True])
@pytest.mark.parametrize("scale_scheme", [None, "min_max"])
@pytest.mark.parametrize("axes", [None, (1, 0, 2)])
def test_indices_stand_for_what_assignment_gives(
    cluster_dim: int, keep_zeros: bool, scale_scheme: str | None, axes: tuple[int, ...] | None
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 12, 3)
    if keep_zeros:
        weight[::2, ::2] = 0
    form = WeightPalette(
        "w",
        4,
        Clustering(temperature=1e-4, iterations=1),
        cluster_dim=cluster_dim,
        group_size=4,
        axes=axes,
        scale_scheme=scale_scheme,
        keep_zeros=keep_zeros,
    )
    palettes = form.begin(weight)
    indices = form.indices(weight, palettes)
    found = form.look_up(indices, palettes, weight.shape, weight.dtype)
    torch.testing.assert_close(found, form.assign(weight, palettes))
