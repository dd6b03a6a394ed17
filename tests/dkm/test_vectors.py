"""Differentiable k-means of vectors: in C, with torch, and by the formulas in double precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_compress.dkm import palettize
from lightning_compress.dkm.initial import first_palette
from lightning_compress.dkm.native.library import has
from lightning_compress.dkm.vectors import to_vectors
from lightning_compress.errors import ConfigurationError
from tests.benchmarks.dkm_accuracy import errors, shapes_of_weights

in_c = pytest.param(True, marks=pytest.mark.skipif(not has("cluster_vectors"), reason="built without C"))
KERNELS = pytest.mark.parametrize("native", [in_c, False], ids=["C", "torch"])
LIMITS = (1e-5, 1e-3, 1e-5)


def by_matrices(
    weight: Tensor,
    centroids: Tensor,
    *,
    temperature: float,
    iterations: int,
    attention_floor: float = 0.0,
    fix_zero: bool = False,
    zero_preference: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """DKM of one group as the paper writes it, by autograd through whole attention matrices."""
    channels, dimensions = weight.shape[0], centroids.shape[-1]
    points = weight.reshape(channels // dimensions, dimensions, -1).transpose(1, 2).reshape(-1, dimensions)
    for _ in range(iterations):
        distance = (points.unsqueeze(1) - centroids).square().sum(-1)
        distance = torch.cat((distance[:, :1] - zero_preference, distance[:, 1:]), dim=1)
        attention = torch.softmax(-distance / temperature, dim=-1).clamp_min(attention_floor)
        centroids = attention.T @ points / attention.sum(dim=0).unsqueeze(-1)
        if fix_zero:
            centroids = torch.cat((torch.zeros_like(centroids[:1]), centroids[1:]))
    output = (attention @ centroids).reshape(channels // dimensions, -1, dimensions).transpose(1, 2)
    return output.reshape(weight.shape), centroids


def gradients(
    function, weight: Tensor, centroids: Tensor, upstream: tuple[Tensor, Tensor], **options
) -> list[Tensor]:
    leaves = weight.clone().requires_grad_(), centroids.clone().requires_grad_()
    results = function(*leaves, **options)
    found = torch.autograd.grad(results, leaves, [each.to(weight.dtype) for each in upstream])
    return [results[0].detach(), results[1].detach(), *found]


@KERNELS
@pytest.mark.parametrize("dimensions", [2, 4, 8])
@pytest.mark.parametrize("clusters", [4, 16, 256])
def test_vectors_are_those_of_double_precision(dimensions, clusters, native):
    for name, flat in shapes_of_weights(8192).items():
        weight, upstream = flat.view(64, -1), torch.randn(64, flat.numel() // 64)
        centroids = first_palette(to_vectors(weight, 1, dimensions), clusters)[0]
        options = {"temperature": 1e-4, "iterations": 3, "attention_floor": 1e-7}
        both = upstream, torch.zeros_like(centroids)
        exact = gradients(by_matrices, weight.double(), centroids.double(), both, **options)
        ours = gradients(palettize, weight, centroids, both, native=native, **options)
        order = (0, 2, 1)
        found = errors([ours[i] for i in order], [exact[i] for i in order])
        limits = LIMITS
        assert all(error <= limit for error, limit in zip(found, limits, strict=True)), (name, found)


@KERNELS
@given(data=st.data())
@settings(max_examples=40)
def test_any_layout_and_any_option_gives_what_matrices_give(native, data):
    dimensions = data.draw(st.sampled_from([1, 2, 3, 4, 8]))
    chunks, clusters = data.draw(st.integers(1, 9)), data.draw(st.integers(2, 20))
    row = data.draw(st.sampled_from([1, 3, 9, 31, 32, 33, 70]))
    floor, fix_zero = data.draw(st.sampled_from([0.0, 1e-3])), data.draw(st.booleans())
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    weight = torch.randn(chunks * dimensions, row, generator=generator)
    centroids = torch.randn(clusters, dimensions, generator=generator)
    if fix_zero:
        centroids[0] = 0
    options = {
        # Nothing is so far away that single precision calls it nothing.
        "temperature": dimensions * data.draw(st.sampled_from([0.5, 2.0])),
        "iterations": data.draw(st.integers(1, 3)),
        "attention_floor": floor,
        "fix_zero": fix_zero,
        "zero_preference": 0.1 if fix_zero else 0.0,
    }
    upstream = (
        torch.randn(weight.shape, generator=generator),
        torch.randn(centroids.shape, generator=generator),
    )
    exact = gradients(by_matrices, weight.double(), centroids.double(), upstream, **options)
    ours = gradients(palettize, weight, centroids, upstream, native=native, exact=True, **options)
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-4, atol=2e-4)


@pytest.mark.skipif(not has("cluster_vectors"), reason="built without C")
@pytest.mark.parametrize("floor", [0.0, 1e-7])
@pytest.mark.parametrize("spread", [0.3, 10.0, 300.0], ids=lambda spread: f"variance {spread} temperatures")
@pytest.mark.parametrize(
    ("shape", "clusters", "dimensions"),
    [
        ((64, 605), 256, 4),  # 9,680 vectors, which are sorted in two parts, and blocks that are not full
        ((60, 33), 64, 2),
        ((48, 1700), 100, 8),
        ((32, 700), 64, 16),
    ],
)
def test_the_few_centroids_that_matter_of_many_are_all_that_matter(
    shape, clusters, dimensions, spread, floor
):
    generator = torch.Generator().manual_seed(clusters + dimensions)
    weight = torch.randn(shape, generator=generator)
    vectors = to_vectors(weight, 1, dimensions)[0]
    # Each attracts something: in single precision what is felt by nothing stays where it is.
    centroids = vectors[torch.randperm(len(vectors), generator=generator)[:clusters]].clone()
    options = {"temperature": 1 / spread, "iterations": 2, "attention_floor": floor}
    upstream = torch.randn(shape, generator=generator), torch.zeros_like(centroids)
    exact = gradients(by_matrices, weight.double(), centroids.double(), upstream, **options)
    ours = gradients(palettize, weight, centroids, upstream, **options)
    order = (0, 2, 1)
    found = errors([ours[i] for i in order], [exact[i] for i in order])
    assert all(error <= limit for error, limit in zip(found, LIMITS, strict=True)), found


@pytest.mark.parametrize("keep_zeros", [True, False])
@pytest.mark.parametrize("spread", [0.01, 4.0])
def test_palettes_of_many_that_are_far_off_have_finite_derivatives(spread, keep_zeros):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(136, 32, generator=generator) * spread
    weight[:, ::2] = 0
    centroids = torch.randn(256, 8, generator=generator) * spread
    centroids[0] = 0
    leaf = weight.requires_grad_()
    output, _ = palettize(leaf, centroids, temperature=2e-7, iterations=2, keep_zeros=keep_zeros)
    output.square().sum().backward()
    assert torch.isfinite(output).all()
    assert torch.isfinite(leaf.grad).all()


@KERNELS
@pytest.mark.parametrize("estimator", ["dkm", "straight_through"])
def test_groups_are_weights_of_their_own(native, estimator):
    weight, palettes = torch.randn(16, 5, 3, 3), torch.randn(2, 6, 4)
    options = {"temperature": 0.5, "iterations": 2, "native": native, "estimator": estimator}
    output, updated = palettize(weight, palettes, **options)
    for group, own in enumerate(weight.split(8)):
        alone, palette = palettize(own.contiguous(), palettes[group], **options)
        torch.testing.assert_close(output[8 * group : 8 * group + 8], alone)
        torch.testing.assert_close(updated[group], palette)


@KERNELS
@pytest.mark.parametrize("estimator", ["dkm", "straight_through"])
def test_vectors_that_are_zero_stay_zero_and_feel_nothing(native, estimator):
    weight = torch.randn(8, 40)
    weight[:4, ::3] = 0
    weight[5, 7] = 0
    palette = torch.cat((torch.zeros(1, 4), torch.randn(5, 4)))
    leaf = weight.clone().requires_grad_()
    output, updated = palettize(
        leaf, palette, temperature=0.3, iterations=2, keep_zeros=True, native=native, estimator=estimator
    )
    output.backward(torch.ones_like(weight))
    assert not output[:4, ::3].any()
    assert not leaf.grad[:4, ::3].any()
    assert not updated[0].any()
    others = torch.ones(40, dtype=torch.bool)
    others[::3] = False
    assert output[:4, others].all()
    assert leaf.grad[5, 7] != 0


@KERNELS
def test_each_group_stops_early_by_its_own_inertia(native):
    weight = torch.cat((torch.randn(8, 200), torch.randn(8, 200) * 0.01))
    palettes = torch.stack([first_palette(half.view(1, -1, 2), 4)[0] + 0.01 for half in weight.split(8)])
    options = {"temperature": 0.05, "iterations": 6, "native": native}
    upstream = torch.randn(weight.shape), torch.randn(palettes.shape)
    stopped = gradients(palettize, weight, palettes, upstream, epsilon=0.5, **options)
    full = gradients(palettize, weight, palettes, upstream, **options)
    assert not torch.allclose(stopped[1], full[1], rtol=1e-6, atol=0)
    options["native"] = not native
    other = gradients(palettize, weight, palettes, upstream, epsilon=0.5, **options)
    torch.testing.assert_close(stopped, other, rtol=1e-3, atol=1e-4)


def test_derivatives_of_vectors_are_those_of_the_output():
    weight, centroids = torch.randn(8, 3, dtype=torch.float64), torch.randn(2, 3, 2, dtype=torch.float64)

    def function(weight: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        return palettize(
            weight, centroids, temperature=0.5, iterations=3, attention_floor=0.05, zero_preference=0.1
        )

    assert torch.autograd.gradcheck(function, (weight.requires_grad_(), centroids.requires_grad_()))


def test_a_centroid_that_nothing_attends_to_stays_where_it_is():
    weight, palette = torch.randn(4, 100) * 0.1, torch.tensor([[0.0, 0.0], [50.0, 50.0]])
    for estimator in ("dkm", "straight_through"):
        for native in (True, False):
            _, updated = palettize(
                weight, palette, temperature=1e-3, iterations=3, native=native, estimator=estimator
            )
            assert torch.equal(updated[1], palette[1])


@KERNELS
@pytest.mark.parametrize("dimensions", [1, 2, 4, 16])
def test_gradients_pass_straight_through_nearest_centroids(native, dimensions):
    weight, palette = torch.randn(32, 50), torch.randn(7, dimensions)
    leaf = weight.clone().requires_grad_()
    output, updated = palettize(
        leaf, palette, temperature=1.0, iterations=1, native=native, estimator="straight_through"
    )
    upstream = torch.randn(weight.shape)
    output.backward(upstream)
    assert torch.equal(leaf.grad, upstream)
    vectors = weight.view(-1, dimensions, 50).transpose(1, 2).reshape(-1, dimensions)
    index = torch.cdist(vectors, palette).argmin(dim=1)
    means = torch.stack([vectors[index == k].mean(dim=0) for k in range(7)])
    torch.testing.assert_close(updated, means)
    expected = means[index].view(-1, 50, dimensions).transpose(1, 2).reshape(weight.shape)
    torch.testing.assert_close(output.detach(), expected)


@pytest.mark.parametrize("clusters", [16, 256])
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("estimator", ["dkm", "straight_through"])
def test_the_graph_of_a_step_keeps_at_most_eight_bytes_a_weight(clusters, native, estimator):
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    weight = torch.randn(128, 1024, requires_grad=True)
    options = {"temperature": 1e-2, "iterations": 3, "native": native, "estimator": estimator}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        palettize(weight, torch.randn(clusters, 4), **options)
    assert sum(kept) <= 8 * weight.numel()


@pytest.mark.parametrize("iterations", [1, 3])
def test_a_second_backward_pass_gives_the_same(iterations):
    weight = torch.randn(64, 40, requires_grad=True)
    output, updated = palettize(weight, torch.randn(64, 4), temperature=0.1, iterations=iterations)
    loss = output.square().sum() + updated.sum()
    first = torch.autograd.grad(loss, weight, retain_graph=True)
    assert torch.equal(*first, *torch.autograd.grad(loss, weight))


def test_halves_are_clustered_in_single_precision_and_come_back():
    weight, palette = torch.randn(8, 16), torch.randn(4, 2)
    full, _ = palettize(weight.bfloat16().float(), palette, temperature=0.5, iterations=2)
    half, updated = palettize(weight.bfloat16(), palette, temperature=0.5, iterations=2)
    assert half.dtype == torch.bfloat16
    assert updated.dtype == torch.float32
    torch.testing.assert_close(half, full.bfloat16())


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ConfigurationError, match="straight"):
        palettize(torch.randn(4, 4), torch.randn(2, 2), temperature=1.0, iterations=1, estimator="nearest")
    with pytest.raises(ConfigurationError, match="hard"):
        palettize(
            torch.randn(4, 4),
            torch.randn(2, 2),
            temperature=1.0,
            iterations=1,
            estimator="straight_through",
            mode="hard",
        )
