"""First palettes: natural floats, k-means of vectors, zeros."""

from __future__ import annotations

import pytest
import torch
from coremltools.optimize.torch.palettization._efficient_kmeans import _EfficientKMeans
from coremltools.optimize.torch.palettization._partitioner import _generate_natural_float

from lightning_compress.dkm import lloyd
from lightning_compress.dkm.initial import first_palette
from lightning_compress.dkm.natural_floats import NATURAL_SIZES, natural_floats


@pytest.mark.parametrize("size", NATURAL_SIZES)
def test_natural_floats_are_coremltools_own(size):
    expected = _generate_natural_float(bit=size.bit_length() - 1)
    torch.testing.assert_close(natural_floats(size).float(), expected)


def test_natural_floats_that_fit_are_nearer_to_the_weights():
    points = torch.randn(1, 4000, 1) * 0.2
    distances = [
        (points[0] - first_palette(points, 8, algorithm=name)[0].T).square().amin(dim=-1).sum()
        for name in ("nf", "nf_fit")
    ]
    assert distances[1] < distances[0]


@pytest.mark.parametrize(("dimensions", "clusters"), [(2, 16), (4, 64)])
def test_vectors_are_clustered_as_well_as_by_ten_restarts_of_coremltools(dimensions, clusters):
    points = torch.randn(4000, dimensions) * 0.05
    theirs = _EfficientKMeans(clusters, "kmeans++", n_init=10).fit(points).cluster_centers_
    ours = lloyd.kmeans(points, clusters)
    assert lloyd.nearest(points, ours)[1].sum() <= 1.02 * lloyd.nearest(points, theirs)[1].sum()


def test_vectors_are_clustered_alike_whatever_was_drawn_before():
    points = torch.randn(500, 2)
    first = lloyd.kmeans(points, 8)
    torch.rand(3)
    assert torch.equal(first, lloyd.kmeans(points, 8))


@pytest.mark.parametrize("dimensions", [1, 2])
def test_a_fixed_zero_is_the_first_centroid_and_replaces_the_nearest(dimensions):
    points = torch.randn(2, 300, dimensions)
    plain, fixed = first_palette(points, 4), first_palette(points, 4, fix_zero=True)
    assert not fixed[:, 0].any()
    for one, other in zip(plain, fixed, strict=True):
        others = one[one.square().sum(-1).argsort()[1:]]
        assert {tuple(row) for row in others.tolist()} == {tuple(row) for row in other[1:].tolist()}


@pytest.mark.parametrize("dimensions", [1, 2])
def test_kept_zeros_take_no_part(dimensions):
    points = torch.randn(1, 300, dimensions)
    with_zeros = torch.cat((points, torch.zeros(1, 500, dimensions)), dim=1)
    palette = first_palette(with_zeros, 4, keep_zeros=True)
    assert not palette[:, 0].any()
    torch.testing.assert_close(palette[:, 1:], first_palette(points, 3))
