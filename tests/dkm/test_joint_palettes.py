"""Weights that are clustered in one go come to the same bits as one after another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.dkm import native
from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.joint_palettes import PalettizedWeight, cluster_together, joins
from lightning_compress.dkm.weight_palette import WeightPalette
from lightning_compress.errors import WeightError

pytestmark = pytest.mark.skipif(
    not native.serves_scalars(torch.zeros(1)),
    reason="the passes in C were not built: there was no compiler when the package was installed",
)


def form(name="layer", clusters=4, **options):
    clustering = Clustering(1e-4, 3, epsilon=1e-4, attention_floor=1e-7)
    return WeightPalette(name, clusters, clustering, **options)


def palettized(own, channels, columns, scale=0.02, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(channels, columns, generator=generator) * scale).to(dtype)
    if own.keep_zeros:
        weight[weight.abs() < 0.3 * scale] = 0
    return PalettizedWeight(own, weight.requires_grad_(), own.begin(weight).entries)


def alone(each, upstream):
    weight = each.weight.detach().clone().requires_grad_()
    output, palettes = each.form.cluster(weight, each.form.begin(weight)._replace(entries=each.entries))
    output.backward(upstream)
    return output.detach(), palettes, weight.grad


def assert_same_as_alone(weights):
    upstream = [torch.randn(each.weight.shape).to(each.weight) for each in weights]
    results = cluster_together(weights)
    torch.autograd.backward([output for output, _ in results], upstream)
    for each, gradient, (output, palettes) in zip(weights, upstream, results, strict=True):
        expected = alone(each, gradient)
        assert all(map(torch.equal, (output.detach(), palettes, each.weight.grad), expected))


forms = st.builds(
    form,
    clusters=st.sampled_from([2, 4, 16]),
    group_size=st.sampled_from([None, 4]),
    enforce_zero=st.booleans(),
    keep_zeros=st.booleans(),
    lut_dtype=st.sampled_from(["f32", "f16"]),
)


@settings(max_examples=15, deadline=None)
@given(
    weights=st.lists(
        st.builds(
            palettized,
            forms,
            channels=st.sampled_from([4, 12]),
            columns=st.integers(20, 4000),
            scale=st.floats(1e-3, 1.0),
            dtype=st.sampled_from([torch.float32, torch.bfloat16]),
            seed=st.integers(0, 9),
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_weights_of_all_kinds(weights):
    assert_same_as_alone(weights)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_on_any_number_of_threads_with_layers_of_all_sizes(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        sizes = [(400, 1000), (8, 100), (300, 300), (4, 9000), (100, 1000)]
        assert_same_as_alone([palettized(form(), *size, seed=index) for index, size in enumerate(sizes)])
    finally:
        torch.set_num_threads(before)


def test_gradients_may_come_one_by_one_and_again():
    weights = [palettized(form(), 8, 400, seed=seed) for seed in range(3)]
    results = cluster_together(weights)
    for output, _ in (results[1], results[0], results[1]):
        output.sum().backward()
    once = alone(weights[1], torch.ones(8, 400))[2]
    assert torch.equal(weights[1].weight.grad, 2 * once)
    assert weights[2].weight.grad is None


def test_what_is_frozen_has_no_gradient():
    weights = [palettized(form(), 8, 400, seed=seed) for seed in range(2)]
    weights[0].weight.requires_grad_(False)
    (frozen, _), (trained, _) = cluster_together(weights)
    assert not frozen.requires_grad
    trained.sum().backward()
    assert weights[0].weight.grad is None


def test_a_weight_that_changed_since_has_no_gradient_any_more():
    weights = [palettized(form("first"), 8, 400), palettized(form("second"), 8, 400)]
    (first, _), (second, _) = cluster_together(weights)
    with torch.no_grad():
        weights[1].weight.mul_(2)
    first.sum().backward()
    with pytest.raises(RuntimeError, match="second: the weight was modified in place"):
        second.sum().backward()


def test_a_bad_weight_is_named():
    weights = [palettized(form("good"), 8, 400), palettized(form("bad"), 8, 400)]
    with torch.no_grad():
        weights[1].weight[3, 5] = torch.inf
    with pytest.raises(WeightError, match="bad: the weight holds NaN or infinity"):
        cluster_together(weights)


@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf])
def test_no_value_that_is_no_number_is_overlooked(value):
    each = palettized(form(), 8, 400)
    with torch.no_grad():
        each.weight[7, 399] = value
    with pytest.raises(WeightError):
        cluster_together([each])


def test_nothing_is_kept_once_outputs_are_gone():
    import gc
    import weakref

    gc.disable()
    try:
        weights = [palettized(form(), 8, 400, seed=seed) for seed in range(2)]
        results = cluster_together(weights)
        seen = [weakref.ref(output.grad_fn) for output, _ in results]
        del results
        assert all(reference() is None for reference in seen)
    finally:
        gc.enable()


def test_what_is_no_case_for_one_call_does_not_join():
    weight = torch.zeros(8, 400)
    assert joins(form(), weight)
    assert not joins(form(), weight.double())
    assert not joins(form(), weight[:0])
    assert not joins(form(cluster_dim=2), weight)
    assert not joins(form(axes=(1, 0)), weight)
    assert not joins(form(scale_scheme="abs"), weight)
    assert not joins(form(soft_share=0.5), weight)
    for option in ({"exact": True}, {"native": False}, {"mode": "hard"}, {"estimator": "straight_through"}):
        assert not joins(WeightPalette("layer", 4, Clustering(1e-4, 3, **option)), weight)
