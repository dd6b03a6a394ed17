"""`palettize` against the formulas of the paper in double precision."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.dkm import palettize
from lightning_compress.dkm.initial import first_palette
from lightning_compress.errors import ConfigurationError, WeightError

TEMPERATURE = 1e-4
FLOOR = 1e-7


def relative(value, reference):
    return ((value.double() - reference).norm() / reference.norm()).item()


def run(function, weight, centroids, upstream, **options):
    weight = weight.clone().requires_grad_()
    output, updated = function(weight, centroids, **options)
    output.backward(upstream)
    return output.detach(), weight.grad, updated.detach()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("upstream", ["random", "constant"])
def test_output_gradient_and_centroids_agree_with_the_formulas(weights, bits, upstream, formulas):
    centroids = first_palette(weights.view(1, -1, 1), 2**bits)[0]
    gradient = torch.randn(weights.shape) if upstream == "random" else torch.ones(weights.shape)
    options = {"temperature": TEMPERATURE, "iterations": 3, "attention_floor": FLOOR}
    output, by_weight, updated = run(palettize, weights, centroids, gradient, **options)
    expected = run(formulas, weights.double(), centroids.double(), gradient.double(), **options)
    assert relative(output, expected[0]) < 1e-5
    assert relative(by_weight, expected[1]) < 1.2e-3
    assert relative(updated, expected[2]) < 1e-5


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(1e-3, 1.0),
    offset=st.floats(-1.0, 1.0),
    softness=st.floats(1e-3, 10.0),
    clusters=st.integers(1, 20),
    iterations=st.integers(1, 5),
    seed=st.integers(0, 10),
)
def test_any_weights_any_palette_and_any_temperature_agree_with_the_formulas(
    scale, offset, softness, clusters, iterations, seed
):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4000, generator=generator) * scale + offset
    centroids = torch.randn(clusters, 1, generator=generator) * scale + offset
    options = {"temperature": softness * scale**2, "iterations": iterations, "attention_floor": FLOOR}
    output, updated = palettize(weight, centroids, **options)
    exact, exact_updated = palettize(weight.double(), centroids.double(), **options)
    spread = exact_updated.std() if clusters > 1 else exact_updated.abs().max()
    reach = max(spread.item(), weight.abs().max().item())
    assert (output - exact).norm() / weight.numel() ** 0.5 < 3e-5 * reach
    assert (updated - exact_updated).abs().max() < 3e-5 * reach


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention_floor": 1e-2},
        {"fix_zero": True, "zero_preference": 1e-6},
        {"epsilon": 1e-3},
        {"epsilon": 10.0},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_the_derivatives_by_weights_and_centroids_pass_gradcheck(groups, options):
    weight = (torch.randn(6, 10, dtype=torch.float64) * 0.02).requires_grad_()
    centroids = torch.linspace(-0.03, 0.03, 4, dtype=torch.float64).view(1, 4, 1).repeat(groups, 1, 1)
    if "fix_zero" in options:
        centroids[:, 0] = 0.0
    centroids = (centroids if groups > 1 else centroids[0]).requires_grad_()

    def function(weight, centroids):
        return palettize(weight, centroids, temperature=TEMPERATURE, iterations=3, **options)

    assert torch.autograd.gradcheck(function, (weight, centroids), eps=1e-7, atol=1e-6)


def test_double_precision_is_the_formulas_themselves(formulas):
    weight = torch.randn(500, dtype=torch.float64) * 0.05
    centroids = torch.linspace(-0.1, 0.1, 8, dtype=torch.float64).unsqueeze(-1)
    options = {"temperature": TEMPERATURE, "iterations": 4, "attention_floor": FLOOR}
    ours = run(palettize, weight, centroids, torch.ones(500).double(), **options)
    theirs = run(formulas, weight, centroids, torch.ones(500).double(), **options)
    for value, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-14)


def test_groups_are_palettized_as_they_would_be_alone(make):
    weight = make("normal", 24_000).view(12, 2000)
    weight[4:8] *= 20
    centroids = first_palette(weight.view(3, -1, 1), 8)
    together, updated = palettize(weight, centroids, temperature=TEMPERATURE, iterations=3)
    for group in range(3):
        part = slice(4 * group, 4 * group + 4)
        alone, updated_alone = palettize(
            weight[part], centroids[group], temperature=TEMPERATURE, iterations=3
        )
        assert relative(together[part], alone.double()) < 1e-5
        assert relative(updated[group], updated_alone.double()) < 1e-5


@pytest.mark.parametrize("iterations", [1, 2, 7])
def test_exactly_as_many_iterations_are_done_as_asked(iterations, formulas):
    weight = torch.randn(300, dtype=torch.float64) * 0.05
    centroids = torch.tensor([[-0.2], [0.0], [0.3]], dtype=torch.float64)
    _, updated = palettize(weight, centroids, temperature=TEMPERATURE, iterations=iterations)
    _, expected = formulas(weight, centroids, temperature=TEMPERATURE, iterations=iterations)
    torch.testing.assert_close(updated, expected)


def test_epsilon_stops_once_the_inertia_settles(formulas):
    weight = torch.randn(300, dtype=torch.float64) * 0.05
    centroids = torch.tensor([[-0.2], [0.0], [0.3]], dtype=torch.float64)
    _, updated = palettize(weight, centroids, temperature=TEMPERATURE, iterations=9, epsilon=1e6)
    _, expected = formulas(weight, centroids, temperature=TEMPERATURE, iterations=2)
    torch.testing.assert_close(updated, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_computed_in_single_precision(dtype, make):
    weight = make("normal", 20_000).to(dtype)
    centroids = torch.linspace(-0.04, 0.04, 4).unsqueeze(-1)
    options = {"temperature": TEMPERATURE, "iterations": 3}
    half, by_half, updated = run(palettize, weight, centroids, torch.ones_like(weight), **options)
    full, by_full, expected = run(
        palettize, weight.float(), centroids, torch.ones_like(weight).float(), **options
    )
    assert half.dtype == by_half.dtype == dtype
    assert updated.dtype == torch.float32
    torch.testing.assert_close(half, full.to(dtype))
    torch.testing.assert_close(by_half, by_full.to(dtype))
    assert torch.equal(updated, expected)


def test_autocast_changes_nothing(make):
    weight, centroids = make("normal", 20_000), torch.linspace(-0.04, 0.04, 4).unsqueeze(-1)
    plain = palettize(weight, centroids, temperature=TEMPERATURE, iterations=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = palettize(weight, centroids, temperature=TEMPERATURE, iterations=3)
    assert all(torch.equal(a, b) for a, b in zip(plain, inside, strict=True))


def test_the_same_weights_give_the_same_bits(weights):
    centroids = first_palette(weights.view(1, -1, 1), 16)[0]
    upstream = torch.randn(weights.shape)
    options = {"temperature": TEMPERATURE, "iterations": 3}
    first, second = (run(palettize, weights, centroids, upstream, **options) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_at_most_eight_bytes_a_weight_are_held_for_backward(make):
    weight = make("normal", 400_000).requires_grad_()
    centroids = torch.linspace(-0.04, 0.04, 256).unsqueeze(-1)
    held = {}

    def pack(tensor):
        if tensor.data_ptr() != weight.data_ptr():
            held[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        palettize(weight, centroids, temperature=TEMPERATURE, iterations=3)
    assert sum(held.values()) <= 8 * weight.numel()


def test_zeros_that_are_kept_stay_zero_and_take_no_part(make):
    weight = make("half zero", 20_000)
    palette = torch.cat((torch.zeros(1), torch.linspace(-0.03, 0.03, 3))).unsqueeze(-1)
    options = {"temperature": TEMPERATURE, "iterations": 3}
    output, by_weight, updated = run(
        palettize, weight, palette, torch.ones_like(weight), keep_zeros=True, **options
    )
    zero = weight == 0
    alone, by_alone, updated_alone = run(
        palettize,
        weight[~zero].double(),
        palette[1:].double(),
        torch.ones_like(weight[~zero]).double(),
        **options,
    )
    assert not output[zero].any()
    assert not by_weight[zero].any()
    assert updated[0] == 0
    assert relative(output[~zero], alone) < 1e-5
    assert relative(by_weight[~zero], by_alone) < 1e-3
    assert relative(updated[1:], updated_alone) < 1e-5


@pytest.mark.parametrize("value", [0.0, 0.37, -1e-45, 1e-38, 1e30, 3.4e38, -3.4e38])
def test_a_constant_weight_is_its_own_palette(value):
    weight = torch.full((8, 300), value)
    output, updated = palettize(weight, weight[:4, :1].clone(), temperature=TEMPERATURE, iterations=3)
    torch.testing.assert_close(output, weight, rtol=1e-6, atol=0)
    torch.testing.assert_close(updated, weight[:4, :1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("unit", [1e-45, 1e-40, 1e-30, 1e-12, 1e12, 1e30, 1e38])
def test_weights_of_any_magnitude_agree_with_the_formulas(unit, formulas):
    weight = torch.randint(-3, 4, (5000,)).float() * unit
    centroids = torch.tensor([[-2.3], [0.1], [2.4]]) * unit
    options = {"temperature": TEMPERATURE, "iterations": 2, "attention_floor": FLOOR}
    output, updated = palettize(weight, centroids, **options)
    expected, expected_updated = formulas(weight.double(), centroids.double(), **options)
    assert torch.isfinite(output).all()
    # Half of the least float's step, where that is what the result is rounded to.
    assert (output.double() - expected).abs().max() <= max(1e-5 * expected.abs().max(), 0.8e-45)
    assert (updated.double() - expected_updated).abs().max() <= max(1e-5 * expected.abs().max(), 0.8e-45)


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1, 1), ()])
def test_one_element_is_palettized(shape):
    weight = torch.full(shape, 0.5, requires_grad=True)
    output, updated = palettize(weight, torch.tensor([[0.4], [0.6]]), temperature=TEMPERATURE, iterations=3)
    output.sum().backward()
    torch.testing.assert_close(output, torch.full(shape, 0.5))
    assert torch.isfinite(weight.grad).all()
    assert torch.isfinite(updated).all()


def test_an_empty_weight_leaves_the_palette_alone():
    palette = torch.tensor([[0.4], [0.6]])
    output, updated = palettize(torch.empty(0, 3), palette, temperature=TEMPERATURE, iterations=3)
    assert output.shape == (0, 3)
    assert torch.equal(updated, palette)


def test_a_centroid_that_no_weight_attends_to_stays():
    weight = torch.randn(5000) * 0.01
    output, updated = palettize(weight, torch.tensor([[0.0], [50.0]]), temperature=TEMPERATURE, iterations=3)
    assert updated[1] == 50
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_refused(bad):
    weight = torch.randn(100)
    weight[7] = bad
    with pytest.raises(WeightError, match="NaN or infinity"):
        palettize(weight, torch.zeros(2, 1), temperature=TEMPERATURE, iterations=1)


def test_weights_that_are_not_contiguous_are_palettized_in_place(make):
    weight = make("normal", 6000).view(60, 100).t()
    centroids = torch.linspace(-0.04, 0.04, 4).unsqueeze(-1)
    output, _ = palettize(weight, centroids, temperature=TEMPERATURE, iterations=3)
    expected, _ = palettize(weight.contiguous(), centroids, temperature=TEMPERATURE, iterations=3)
    assert torch.equal(output, expected)


def test_threads_do_not_disturb_one_another(make):
    weight, centroids = make("normal", 50_000), torch.linspace(-0.04, 0.04, 4).unsqueeze(-1)
    expected, _ = palettize(weight, centroids, temperature=TEMPERATURE, iterations=3)
    results = []
    threads = [
        threading.Thread(
            target=lambda: results.append(
                palettize(weight, centroids, temperature=TEMPERATURE, iterations=3)[0]
            )
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert all(torch.equal(result, expected) for result in results)


@pytest.mark.parametrize(
    ("weight", "centroids", "options", "message"),
    [
        (torch.zeros(4, dtype=torch.int32), torch.zeros(2, 1), {}, "floating-point"),
        (torch.zeros(4), torch.zeros(2), {}, r"\(K, D\)"),
        (torch.zeros(4), torch.zeros(2, 3), {}, r"vectors of 3 cannot share the 4 channels"),
        (
            torch.zeros(4),
            torch.zeros(2, 1),
            {"mode": "soft"},
            "mode='soft' is unknown; valid are dkm, topk, hard, gsm",
        ),
        (torch.zeros(4, 2), torch.zeros(3, 2, 1), {}, r"valid numbers of palettes: \[1, 2, 4\]"),
        (torch.zeros(4), torch.zeros(2, 1), {"temperature": 0.0}, "temperature"),
        (torch.zeros(4), torch.zeros(2, 1), {"iterations": 0}, "iterations"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(weight, centroids, options, message):
    with pytest.raises(ConfigurationError, match=message):
        palettize(weight, centroids, **{"temperature": TEMPERATURE, "iterations": 1, **options})


@pytest.mark.parametrize("path", ["host", "device"])
def test_one_centroid_of_weights_in_a_wide_range_is_their_mean(path):
    weight = torch.randn(300_000, generator=torch.Generator().manual_seed(0)) * 10
    output, updated = palettize(weight, torch.ones(1, 1), temperature=TEMPERATURE, iterations=3, path=path)
    torch.testing.assert_close(updated.double().item(), weight.double().mean().item(), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(output, updated[0].expand_as(output))
