"""One-dimensional k-means: as good as the exact optimum, deterministic, and defined at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools._deps import _kmeans1d
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lightning_compress.kmeans import assign, count_float16, inertia, kmeans_1d


def optimal_inertia(values, counts, n_clusters):
    """The exact dynamic programme that coremltools carries."""
    _, centroids = _kmeans1d.cluster(values, n_clusters, weights=counts)
    return inertia(values, counts, np.sort(np.array(centroids)))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_the_inertia_is_within_a_thousandth_of_the_optimum(weights, bits):
    values, counts = count_float16(weights.numpy().astype(np.float16))
    found = inertia(values, counts, kmeans_1d(values, counts, 2**bits))
    assert found <= optimal_inertia(values, counts, 2**bits) * 1.001


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-1000, 1000), min_size=1, max_size=60, unique=True),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
)
def test_few_values_are_clustered_optimally(numbers, n_clusters, random):
    values = np.sort(np.array(numbers, dtype=np.float64)) / 7
    counts = np.array([random.randint(1, 9) for _ in numbers], dtype=np.float64)
    centroids = kmeans_1d(values, counts, n_clusters)
    assert centroids.shape == (n_clusters,)
    assert (np.diff(centroids) >= 0).all()
    optimum = optimal_inertia(values, counts, n_clusters) if len(values) > n_clusters else 0.0
    assert inertia(values, counts, centroids) == pytest.approx(optimum, rel=1e-6, abs=1e-9)


def test_one_count_of_float16_values_serves_every_number_of_clusters():
    array = np.random.default_rng(0).normal(0, 0.02, (64, 64)).astype(np.float16)
    values, counts = count_float16(array)
    assert counts.sum() == array.size
    np.testing.assert_array_equal(
        np.repeat(values, counts.astype(int)), np.sort(array.reshape(-1)).astype(float)
    )
    assert all(len(kmeans_1d(values, counts, 2**bits)) == 2**bits for bits in range(1, 9))


def test_both_zeros_count_as_one_value():
    values, counts = count_float16(np.array([0.0, -0.0, 1.0], dtype=np.float16))
    np.testing.assert_array_equal(values, [0.0, 1.0])
    np.testing.assert_array_equal(counts, [2, 1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_counted(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        count_float16(np.array([1.0, bad], dtype=np.float16))


def test_fewer_values_than_clusters_are_their_own_centroids():
    np.testing.assert_array_equal(kmeans_1d(np.array([1.0, 2.0]), np.array([3, 4]), 4), [1.0, 2.0, 2.0, 2.0])


def test_nothing_to_cluster_gives_zeros():
    np.testing.assert_array_equal(kmeans_1d(np.array([]), np.array([]), 2), [0.0, 0.0])


@pytest.mark.parametrize("unit", [5e-324, 1e-320, 1e-45, 1e38, 4e306])
def test_the_smallest_and_the_largest_floats_are_clustered_like_any_other(unit):
    values = np.array([-40.0, -39.0, -38.0, 1.0, 2.0, 39.0, 41.0]) * unit
    centroids = kmeans_1d(values, np.ones(7), 3)
    np.testing.assert_allclose(centroids, np.array([-39.0, 1.5, 40.0]) * unit, rtol=1e-9, atol=5e-324)


def test_the_same_values_give_the_same_centroids(make):
    values, counts = np.unique(make("heavy tailed", 5000).numpy(), return_counts=True)
    first, second = (kmeans_1d(values, counts, 64) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_value_goes_to_the_nearest_centroid_and_the_lower_of_two():
    np.testing.assert_array_equal(
        assign(np.array([-9.0, 0.4, 0.5, 0.6, 9.0]), np.array([0.0, 1.0])), [0, 0, 0, 1, 1]
    )


def test_a_number_of_clusters_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        kmeans_1d(np.array([1.0]), np.array([1]), 0)


@given(
    arrays.arrays(np.float64, 20, elements=st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0])),
    arrays.arrays(np.float64, st.integers(1, 6), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])),
)
def test_each_value_is_assigned_as_by_argmin_whatever_the_order_of_the_centroids(values, centroids):
    expected = np.abs(values[:, None] - centroids).argmin(axis=1)
    np.testing.assert_array_equal(assign(values, centroids), expected)
