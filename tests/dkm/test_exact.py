"""The whole attention matrix, a part at a time: vectors and the modes that are no softmax, beside coremltools' own."""

from __future__ import annotations

import pytest
import torch
from coremltools.optimize.torch.palettization import FakePalettize as CoreMLFakePalettize
from torch.ao.quantization import MovingAveragePerChannelMinMaxObserver

from lightning_compress.dkm import FakePalettize, exact, palettize

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # coremltools' mode "hard"

OBSERVER = MovingAveragePerChannelMinMaxObserver.with_args(quant_min=-128, quant_max=127, dtype=torch.qint8)


@pytest.fixture
def weight():
    return torch.randn(16, 12, 3, 3) * 0.05


def make(cls, *, n_bits=3, cluster_dim=1, advanced_options=None, **options):
    fake = cls(OBSERVER, n_bits, cluster_dim, advanced_options=advanced_options or {}, **options)
    fake.enable_fake_palett()
    return fake


@pytest.mark.parametrize(
    "options",
    [
        {"cluster_dim": 2},
        {"cluster_dim": 4, "n_bits": 4},
        {"cluster_dim": 2, "group_size": 4},
        {"cluster_dim": 2, "advanced_options": {"enforce_zero": True}},
        {"cluster_dim": 2, "advanced_options": {"palett_epsilon": 10.0}},
        {"cluster_dim": 2, "enable_per_channel_scale": True, "advanced_options": {"palett_tau": 1e-2}},
        {"advanced_options": {"palett_mode": "hard"}},
        {"advanced_options": {"palett_mode": "gsm"}},
        {"group_size": 4, "advanced_options": {"palett_mode": "gsm"}},
        {"cluster_dim": 2, "advanced_options": {"palett_mode": "hard"}},
        {"group_size": 4},
        {"group_size": 4, "advanced_options": {"palett_epsilon": 2e-3}},
        {"group_size": 4, "advanced_options": {"percentage_palett_enable": 0.5}},
        {"group_size": 4, "cluster_dim": 2, "advanced_options": {"percentage_palett_enable": 0.6}},
    ],
    ids=str,
)
def test_a_step_is_coremltools_own(weight, options):
    ours, theirs = make(FakePalettize, **options), make(CoreMLFakePalettize, **options)
    ours.initialise(weight)
    theirs.create_partitions(weight)
    theirs.centroids = [palette.clone() for palette in ours.palette]
    # coremltools lets the first centroid seem nearer whether or not it is zero.
    theirs.prune_threshold = ours._form(weight).zero_preference
    one, other = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    upstream = torch.randn(weight.shape)
    torch.manual_seed(5)
    output = ours(one)
    torch.manual_seed(5)
    expected = theirs(other)
    torch.testing.assert_close(output, expected, rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(ours.palette, torch.stack(theirs.centroids), rtol=2e-4, atol=2e-5)
    output.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("mode", ["topk", "hard", "gsm"])
def test_parts_give_what_the_whole_gives(weight, mode, monkeypatch):
    def run():
        torch.manual_seed(0)
        inputs = weight.double().requires_grad_(), centroids.double().requires_grad_()
        output, updated = palettize(*inputs, temperature=1e-2, iterations=2, mode=mode, attention_floor=1e-7)
        return output, updated, *torch.autograd.grad(output.sin().sum() + updated.sum(), inputs)

    centroids = torch.randn(8, 2) * 0.05
    if mode == "gsm":
        # Noise is drawn part by part: with another cut it is other noise. The derivatives are those of the same noise.
        monkeypatch.setattr(exact, "_BLOCK", 8 * 100)
        first, second = run(), run()
    else:
        first = run()
        monkeypatch.setattr(exact, "_BLOCK", 8 * 100)
        second = run()
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mode", ["topk", "gsm"])
def test_derivatives_are_those_of_the_output(mode, monkeypatch):
    monkeypatch.setattr(exact, "_BLOCK", 4 * 5)
    weight, centroids = torch.randn(6, 4, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)

    def function(weight, centroids):
        torch.manual_seed(0)
        return palettize(weight, centroids, temperature=0.5, iterations=2, mode=mode, zero_preference=0.1)

    assert torch.autograd.gradcheck(function, (weight.requires_grad_(), centroids.requires_grad_()))


def test_scalars_one_by_one_are_scalars_on_the_grid(weight):
    centroids = torch.linspace(-0.1, 0.1, 8).unsqueeze(-1)
    upstream = torch.randn(weight.shape)
    results = []
    for options in ({}, {"exact": True}, {"native": False}):
        leaf = weight.clone().requires_grad_()
        output, updated = palettize(leaf, centroids, temperature=1e-3, iterations=3, **options)
        output.backward(upstream)
        results.append((output, updated, leaf.grad))
    for other in results[1:]:
        torch.testing.assert_close(results[0], other, rtol=1e-3, atol=1e-4)


def test_vectors_that_are_zero_stay_zero_and_take_no_others(weight):
    weight[:4] = 0
    centroids = torch.cat((torch.zeros(1, 2), torch.randn(7, 2) * 0.05))
    palettized, updated = palettize(weight, centroids, temperature=1e-3, iterations=3, keep_zeros=True)
    assert torch.equal(palettized == 0, weight == 0)
    assert torch.equal(updated[0], torch.zeros(2))
    alone, expected = palettize(weight[4:], centroids[1:], temperature=1e-3, iterations=3)
    torch.testing.assert_close(palettized[4:], alone)
    torch.testing.assert_close(updated[1:], expected)


def test_memory_is_that_of_a_part(monkeypatch):
    """The graph of a step keeps no attention: only tensors of the size of the weight and of the palette."""
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    weight = torch.randn(64, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        palettize(weight, torch.randn(256, 2), temperature=1e-2, iterations=3, mode="topk")
    assert max(kept) <= weight.numel()
