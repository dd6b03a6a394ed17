"""Weights whose grids are one, as on GPUs and MPS, computed on the processor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.joint_palettes import PalettizedWeight, cluster_together, joins
from lightning_compress.dkm.weight_palette import WeightPalette
from tests.benchmarks.dkm_operations import operations
from tests.dkm.test_joint_palettes import alone, palettized

MOST_BY_LAYER = 30
"""Operations that a layer may add, views among them: finding its range and its panels, and taking results apart."""


def form(clusters=4, path="device", **options):
    # Single precision does not tell changes of inertia apart.
    epsilon = None if path == "single" else 1e-4
    clustering = Clustering(1e-4, 3, epsilon=epsilon, attention_floor=1e-7, path=path)
    return WeightPalette("layer", clusters, clustering, **options)


def exactly(each, upstream):
    """Weight, palettes and gradient with each weight attended to by itself, in double precision."""
    form = replace(each.form, clustering=replace(each.form.clustering, path="host", exact=True))
    weight = each.weight.detach().double().requires_grad_()
    return alone(PalettizedWeight(form, weight, each.entries.double()), upstream.double())


@pytest.mark.parametrize("path", ["device", "single"])
@pytest.mark.parametrize("keep_zeros", [False, True], ids=["all", "but zeros"])
def test_weights_on_one_grid_are_what_the_formulas_make_of_each(path, keep_zeros):
    own = form(path=path, group_size=20, keep_zeros=keep_zeros)
    one_more = form(16, path=path, keep_zeros=keep_zeros)
    weights = [
        palettized(own, 40, 3000, scale=0.02),
        palettized(own, 20, 9000, scale=0.1, seed=1),
        palettized(one_more, 20, 3000, seed=2),
        palettized(own, 20, 100, scale=0.3, seed=3),
    ]
    upstream = [torch.randn(each.weight.shape) for each in weights]
    results = cluster_together(weights)
    torch.autograd.backward([output for output, _ in results], upstream)
    for each, gradient, (output, palettes) in zip(weights, upstream, results, strict=True):
        expected = exactly(each, gradient)
        found = output.detach(), palettes, each.weight.grad
        for value, reference, bound in zip(found, expected, (1e-5, 1e-5, 1e-3), strict=True):
            assert (value.double() - reference).norm() <= bound * reference.norm()


@pytest.mark.parametrize("bits", [2, 4])
def test_operations_grow_with_layers_by_the_passes_over_weights_alone(bits):
    few, many = operations(4, bits), operations(16, bits)
    assert (many - few) / 12 <= MOST_BY_LAYER
    # Alone, layers would take as many each as is done once for all.
    assert operations(4, bits, together=False) > 2 * few


def test_gradients_may_come_one_by_one_and_again():
    weights = [palettized(form(), 8, 4000, seed=seed) for seed in range(3)]
    results = cluster_together(weights)
    assert not results[0][1].requires_grad
    for output, _ in (results[1], results[0], results[1]):
        output.sum().backward()
    assert torch.equal(weights[0].weight.grad, once(0))
    assert torch.equal(weights[1].weight.grad, 2 * once(1))
    assert weights[2].weight.grad is None


def once(index):
    weights = [palettized(form(), 8, 4000, seed=seed) for seed in range(3)]
    cluster_together(weights)[index][0].sum().backward()
    return weights[index].weight.grad


def test_what_is_frozen_has_no_gradient():
    weights = [palettized(form(), 8, 4000, seed=seed) for seed in range(2)]
    weights[0].weight.requires_grad_(False)
    (frozen, _), (trained, _) = cluster_together(weights)
    assert not frozen.requires_grad
    trained.sum().backward()
    assert weights[0].weight.grad is None


def test_weights_in_double_precision_and_exact_ones_do_not_join():
    weight = torch.zeros(8, 400)
    assert joins(form(), weight)
    assert not joins(form(), weight.double())
    assert not joins(WeightPalette("layer", 4, Clustering(1e-4, 3, exact=True, path="device")), weight)
