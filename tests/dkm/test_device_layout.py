"""What GPUs and MPS compute, computed on the processor: against the formulas, and without a look at any value."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_compress.dkm import device_layout, palettize
from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.initial import first_palette
from lightning_compress.dkm.scalars import PalettizeScalars
from lightning_compress.errors import ConfigurationError, WeightError

TEMPERATURE = 1e-4
FLOOR = 1e-7

MANY = {2: 140_000, 4: 70_000, 16: 30_000, 64: 30_000, 256: 60_000}
"""For so many centroids, how many weights are put on a grid for certain."""


def relative(value, reference):
    return ((value.double() - reference).norm() / reference.norm()).item()


def run(weight, centroids, **options):
    """Palettized weight, new centroids, and the derivatives of a loss that takes part in both."""
    weight, centroids = weight.clone().requires_grad_(), centroids.clone().requires_grad_()
    output, updated = palettize(weight, centroids, temperature=TEMPERATURE, **options)
    upstream = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).to(weight.dtype)
    (by_weight,) = torch.autograd.grad(output, weight, upstream)
    return output.detach(), by_weight, updated.detach()


def shape_of(kind, size):
    normal = torch.randn(size, generator=torch.Generator().manual_seed(0))
    if kind == "Student t":
        freedom = torch.randn((3, size), generator=torch.Generator().manual_seed(2)).square().mean(dim=0)
        return normal / freedom.sqrt() * 0.01
    return normal * kind


def lay_out(weight, centroids, **options):
    low, high = (bound.view(1).double() for bound in torch.aminmax(weight))
    clustering = Clustering(TEMPERATURE, 3, **options)
    return device_layout.lay_out(weight.view(1, -1), low, high, centroids.view(1, -1), None, clustering)


def assert_within_bounds(weight, clusters, path, formulas, of_gradient=1e-3):
    centroids = first_palette(weight.view(1, -1, 1), clusters)[0]
    output, by_weight, updated = run(weight, centroids, iterations=3, attention_floor=FLOOR, path=path)
    exact = weight.double().requires_grad_()
    expected, expected_centroids = formulas(
        exact, centroids.double(), temperature=TEMPERATURE, iterations=3, attention_floor=FLOOR
    )
    upstream = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).double()
    (expected_gradient,) = torch.autograd.grad(expected, exact, upstream)
    assert relative(output, expected.detach()) < 1e-5
    assert relative(by_weight, expected_gradient) < of_gradient
    assert relative(updated, expected_centroids.detach()) < 1e-5


@pytest.mark.parametrize(
    "clusters", [pytest.param(2, marks=pytest.mark.slow), 4, pytest.param(16, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", [0.001, 0.02, 0.1, 0.3, 1.0, "Student t"])
def test_weights_of_any_width_agree_with_the_formulas(kind, clusters, formulas):
    assert_within_bounds(shape_of(kind, MANY[clusters]), clusters, "device", formulas)


@pytest.mark.slow
@pytest.mark.parametrize("clusters", [64, 256])
@pytest.mark.parametrize("kind", [0.001, 0.02, 0.1, 0.3, 1.0, "Student t"])
def test_weights_of_any_width_agree_with_the_formulas_for_many_centroids(kind, clusters, formulas):
    assert_within_bounds(shape_of(kind, MANY[clusters]), clusters, "device", formulas)


@pytest.mark.parametrize(
    "clusters", [pytest.param(2, marks=pytest.mark.slow), 4, pytest.param(16, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", [0.02, 0.3, 1.0, "Student t"])
def test_single_precision_alone_is_enough(kind, clusters, formulas):
    # Where attention switches within 1e-5 of the range, centroids in single precision say no more exactly when;
    # coremltools' gradient is off by 1e-2 there.
    of_gradient = 5e-3 if kind == 1.0 else 1e-3
    assert_within_bounds(shape_of(kind, MANY[clusters]), clusters, "single", formulas, of_gradient)


@settings(max_examples=15, deadline=None)
@given(
    scale=st.floats(1e-3, 1.0),
    offset=st.floats(-1.0, 1.0),
    clusters=st.integers(2, 20),
    iterations=st.integers(1, 5),
    seed=st.integers(0, 10),
)
def test_palettes_that_move_far_agree_with_exact_ones(scale, offset, clusters, iterations, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(140_000, generator=generator) * scale + offset
    centroids = torch.randn(clusters, 1, generator=generator) * scale + offset
    options = {"iterations": iterations, "attention_floor": FLOOR}
    output, by_weight, updated = run(weight, centroids, path="device", **options)
    expected = run(weight.double(), centroids.double(), **options)
    assert relative(output, expected[0]) < 1e-5
    assert relative(by_weight, expected[1]) < 3e-3
    assert relative(updated, expected[2]) < 1e-5


@pytest.mark.parametrize("path", ["device", "single"])
@pytest.mark.parametrize(
    "options",
    [
        {"keep_zeros": True},
        {"fix_zero": True, "zero_preference": 1e-5},
        {"attention_floor": 1e-3},
        {"iterations": 5, "epsilon": 1e-2},
        {"iterations": 1},
    ],
    ids=lambda options: "+".join(options),
)
def test_groups_with_every_option_agree_with_exact_ones(make, options, path):
    weight = make("half zero", 200_000).view(8, -1)
    weight[2:4] *= 20
    weight[4:6] -= 0.1
    centroids = first_palette(weight.view(4, -1, 1), 4, keep_zeros=True)
    options = {"iterations": 3, **options}
    results = run(weight, centroids, path=path, **options)
    expected = run(weight.double(), centroids.double(), **options)
    for group in range(4):
        rows = slice(2 * group, 2 * group + 2)
        assert relative(results[0][rows], expected[0][rows]) < 1e-5
        # A floor that is felt has corners, which no polynomial follows.
        assert relative(results[1][rows], expected[1][rows]) < (
            3e-3 if "attention_floor" in options else 1e-3
        )
        assert relative(results[2][group], expected[2][group]) < 2e-5
    if "keep_zeros" in options:
        assert torch.equal(results[0] == 0, weight == 0)


@pytest.mark.parametrize("value", [0.0, 0.37, -1e-45, 1e-38, 1e10])
def test_a_constant_weight_is_its_own_palette(value):
    weight = torch.full((70, 1000), value)
    output, by_weight, updated = run(weight, weight[:4, :1].clone(), iterations=3, path="device")
    torch.testing.assert_close(output, weight, rtol=1e-6, atol=0)
    torch.testing.assert_close(updated, weight[:4, :1], rtol=1e-6, atol=0)
    assert torch.isfinite(by_weight).all()


def test_one_outlier_far_away_costs_no_accuracy(formulas):
    weight = shape_of(0.02, 70_000)
    weight[17] = 30.0
    assert_within_bounds(weight, 4, "device", formulas)


@pytest.mark.parametrize("clusters", [1, 4])
def test_many_weights_are_put_on_a_grid_and_few_are_evaluated_one_by_one(clusters):
    weight, centroids = shape_of(0.3, 300_000), torch.linspace(-0.3, 0.3, clusters).double()
    assert lay_out(weight[:5000], centroids) is None
    grid = lay_out(weight, centroids)
    edges = grid.points.view(-1, 8)
    assert (edges[1:, 0] >= edges[:-1, 0]).all()
    assert edges[0, 0] == weight.min()
    assert edges[-1, -1] > weight.max()


def test_panels_are_where_attention_changes():
    weight, centroids = shape_of(1.0, 300_000), torch.tensor([-0.8, 0.8]).double()
    points = lay_out(weight, centroids).points.flatten()
    assert ((points > -0.01) & (points < 0.01)).double().mean() > 0.4


class _Operations(TorchDispatchMode):
    """Notes the operations, and those that bring a tensor from the processor."""

    def __init__(self):
        super().__init__()
        self.names, self.brought = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        made = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
        self.names.append(str(function))
        if any(t.device.type == "meta" for t in made) and any(
            t.dim() and t.device.type == "cpu" for t in given
        ):
            self.brought.append(str(function))
        return result


def operations(size, clusters=4, groups=1, keep_zeros=False, **options):
    """The operations of a pass and its derivatives on tensors that have no values, of which none can be asked for."""
    with _Operations() as seen:
        weight = torch.empty(8, size // 8, device="meta", requires_grad=True)
        centroids = torch.empty(groups, clusters, 1, device="meta", requires_grad=True)
        clustering = Clustering(TEMPERATURE, **{"iterations": 3, **options})
        output, updated = PalettizeScalars.apply(weight, centroids, groups, clustering, keep_zeros)
        (output.sum() + updated.sum()).backward()
    return seen


@pytest.mark.parametrize(("size", "groups"), [(1000, 1), (400_000, 4)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"keep_zeros": True},
        {"epsilon": 1e-3},
        {"fix_zero": True, "zero_preference": 1e-5},
        {"attention_floor": FLOOR},
        {"path": "single", "epsilon": 1e-3},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_the_host_asks_for_no_value_and_after_the_first_time_brings_none(size, groups, options):
    operations(size, groups=groups, **options)
    assert not operations(size, groups=groups, **options).brought


def test_operations_do_not_become_more_with_weights_centroids_or_groups():
    small = operations(400_000, attention_floor=FLOOR)
    assert len(operations(40_000_000, clusters=256, attention_floor=FLOOR).names) == len(small.names)
    grouped = operations(4_000_000, groups=8, attention_floor=FLOOR)
    assert len(grouped.names) < len(small.names) + 60


@pytest.mark.parametrize("path", ["device", "single"])
def test_at_most_twelve_bytes_a_weight_are_held_for_backward(make, path):
    weight = make("normal", 80_000).requires_grad_()
    held = {}

    def pack(tensor):
        if tensor.data_ptr() != weight.data_ptr():
            held[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        palettize(
            weight, torch.linspace(-0.04, 0.04, 256).unsqueeze(-1), temperature=1e-4, iterations=3, path=path
        )
    points = device_layout._MOST_PANELS * 8 * 8
    assert sum(held.values()) + points <= 12 * weight.numel()


def test_a_weight_that_is_not_finite_is_refused_on_the_processor():
    weight = torch.full((100,), float("nan"))
    with pytest.raises(WeightError, match="NaN or infinity"):
        palettize(weight, torch.zeros(2, 1), temperature=TEMPERATURE, iterations=1, path="device")


def test_an_unknown_path_is_refused_with_those_that_there_are():
    with pytest.raises(
        ConfigurationError, match="path='gpu' is unknown; valid are auto, host, device, single"
    ):
        palettize(torch.zeros(4), torch.zeros(2, 1), temperature=TEMPERATURE, iterations=1, path="gpu")
