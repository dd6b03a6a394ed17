"""`FakePalettize`: what it computes, what it keeps, and what its state dict holds."""

from __future__ import annotations

import copy

import pytest
import safetensors.torch
import torch
from coremltools.optimize.torch.palettization import FakePalettize as CoreMLFakePalettize
from coremltools.optimize.torch.palettization._efficient_kmeans import _EfficientKMeans
from torch.ao.quantization import MovingAveragePerChannelMinMaxObserver

from lightning_compress.dkm import FakePalettize, palettize
from lightning_compress.errors import ConfigurationError, WeightError

OBSERVER = MovingAveragePerChannelMinMaxObserver.with_args(quant_min=-128, quant_max=127, dtype=torch.qint8)


def make(cls=FakePalettize, *, n_bits=2, cluster_dim=1, advanced_options=None, **options):
    fake = cls(OBSERVER, n_bits, cluster_dim, advanced_options=advanced_options or {}, **options)
    fake.enable_fake_palett()
    return fake


@pytest.fixture
def weight():
    return torch.randn(16, 12, 3, 3) * 0.05


VARIANTS = {
    "per tensor": {},
    "in groups": {"group_size": 4},
    "scaled by channel": {"enable_per_channel_scale": True},
    "scaled by greatest": {
        "enable_per_channel_scale": True,
        "advanced_options": {"per_channel_scaling_factor_scheme": "abs"},
    },
    "with a zero": {"advanced_options": {"enforce_zero": True}},
    "keeping zeros": {"advanced_options": {"enforce_zero": True, "prune_threshold": 0.0}},
    "permuted": {"advanced_options": {"cluster_permute": (1, 0, 2, 3)}, "group_size": 4},
    "natural floats": {"n_bits": 3, "advanced_options": {"kmeans_init": "nf"}},
    "in vectors": {"cluster_dim": 2},
    "with noise": {"advanced_options": {"palett_mode": "gsm"}},
    "hard": {"advanced_options": {"palett_mode": "hard"}},
    "in part": {"group_size": 4, "advanced_options": {"percentage_palett_enable": 0.5}},
    "rounded to int8": {"lut_dtype": "i8"},
    "rounded to half": {"lut_dtype": "f16"},
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def options(request):
    return request.param


def groups_of(fake, weight):
    size = fake.group_size or weight.shape[0]
    return weight.shape[0] // size


def test_it_is_coremltools_class_with_its_constructor(options):
    assert isinstance(make(**options), CoreMLFakePalettize)


def test_evaluation_leaves_as_many_values_as_the_palette_has(options, weight):
    fake = make(**options)
    fake(weight)
    fake.eval()
    palettized = fake(weight)
    if fake.per_channel_scaling_factor is not None:
        palettized = palettized / fake.per_channel_scaling_factor.view(-1, 1, 1, 1)
    permuted = palettized.permute(1, 0, 2, 3) if fake.cluster_permute else palettized
    count = groups_of(fake, permuted)
    for group in permuted.chunk(count):
        distinct = torch.unique((group * 1e5).round())
        assert len(distinct) <= fake.n_clusters * fake.cluster_dim


def test_a_state_dict_resumes_exactly_before_the_first_forward(options, weight):
    trained = make(**options)
    torch.manual_seed(0)
    for _ in range(2):
        trained(weight)
    state = copy.deepcopy(trained.state_dict())
    resumed = make(**options)
    resumed.materialize(weight)
    resumed.load_state_dict(state)
    torch.manual_seed(1)
    expected = [trained(weight), trained(weight)]
    torch.manual_seed(1)
    assert all(torch.equal(resumed(weight), value) for value in expected)


def test_a_state_dict_loads_into_one_that_never_saw_a_weight(options, weight):
    trained = make(**options)
    trained(weight)
    fresh = FakePalettize(
        OBSERVER,
        trained.n_bits,
        trained.cluster_dim,
        **{k: v for k, v in options.items() if k != "n_bits" and k != "cluster_dim"},
    )
    assert fresh.load_state_dict(trained.state_dict()).missing_keys == []
    trained.eval(), fresh.eval()
    assert torch.equal(fresh(weight), trained(weight))


def test_the_state_dict_holds_small_tensors_only_and_its_shapes_are_known_beforehand(options, weight):
    fresh, trained = make(**options), make(**options)
    fresh.materialize(weight)
    trained(weight)
    trained.eval()
    trained(weight)
    shapes = {name: value.shape for name, value in trained.state_dict().items()}
    assert {name: value.shape for name, value in fresh.state_dict().items()} == shapes
    assert all(value.numel() < weight.numel() / 2 for value in trained.state_dict().values())
    safetensors.torch.save(dict(trained.state_dict()))


def test_nothing_of_the_size_of_the_weight_is_kept(options, weight):
    fake = make(**options)
    fake(weight.requires_grad_()).sum().backward()
    fake.eval()
    fake(weight.detach())
    kept = [value for value in vars(fake).values() if isinstance(value, torch.Tensor)]
    kept += [
        item
        for value in vars(fake).values()
        if isinstance(value, list)
        for item in value
        if isinstance(item, torch.Tensor)
    ]
    assert all(value.numel() < weight.numel() / 2 for value in kept)


def test_a_copy_goes_its_own_way(options, weight):
    fake = make(**options)
    fake(weight)
    before = fake.palette.clone()
    twin = copy.deepcopy(fake)
    twin(weight * 2)
    assert torch.equal(fake.palette, before)
    assert not torch.equal(twin.palette, before)


def test_a_step_is_the_kernels(weight):
    fake = make(advanced_options={"kmeans_max_iter": 2, "palett_tau": 1e-3, "palett_epsilon": 0.0})
    fake.initialise(weight)
    expected, palette = palettize(
        weight, fake.palette[0], temperature=1e-3, iterations=2, attention_floor=fake.zero_threshold
    )
    assert torch.equal(fake(weight), expected)
    assert torch.equal(fake.palette[0], palette)


@pytest.mark.parametrize("advanced", [{}, {"enforce_zero": True}], ids=["plain", "with a zero"])
def test_a_step_is_coremltools_own_to_its_precision(weight, advanced):
    ours, theirs = (
        make(n_bits=3, advanced_options=advanced),
        make(CoreMLFakePalettize, n_bits=3, advanced_options=advanced),
    )
    ours.initialise(weight)
    theirs.create_partitions(weight)
    theirs.centroids = [ours.palette[0].clone()]
    # coremltools lets the first centroid seem nearer whether or not it is zero.
    theirs.prune_threshold = ours._form(weight).zero_preference
    one, other = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    upstream = torch.randn(weight.shape)
    ours(one).backward(upstream)
    theirs(other).backward(upstream)
    torch.testing.assert_close(
        ours.palette[0].sort(0).values, theirs.centroids[0].sort(0).values, rtol=2e-4, atol=1e-6
    )
    torch.testing.assert_close(one.grad, other.grad, rtol=5e-3, atol=5e-4)


def test_the_first_palette_is_at_least_as_good_as_ten_restarts_of_coremltools(weight):
    fake = make(n_bits=4)
    fake.initialise(weight)
    points = weight.reshape(-1, 1)
    theirs = _EfficientKMeans(16, "kmeans++", n_init=10).fit(points).cluster_centers_

    def inertia(centroids):
        return (points - centroids.T).square().amin(dim=-1).sum()

    assert inertia(fake.palette[0]) <= inertia(theirs)


def test_evaluation_follows_weights_and_palette_that_were_swapped(weight):
    fake = make()
    fake(weight)
    fake.eval()
    fake(weight)
    fake.palette.mul_(2)
    doubled = fake(weight * 2)
    assert set(doubled.unique().tolist()) <= set(fake.palette.unique().tolist())
    nearest = (weight.reshape(-1, 1) * 2 - fake.palette.view(1, -1)).abs().amin(dim=-1)
    torch.testing.assert_close((doubled - weight * 2).abs().view(-1), nearest)


def test_the_palette_keeps_its_precision_when_the_module_is_cast(weight):
    fake = make()
    fake(weight)
    before = fake.palette.clone()
    fake.to(torch.bfloat16)
    assert torch.equal(fake.palette, before)
    assert fake(weight.bfloat16()).dtype == torch.bfloat16


def test_averaged_flags_stay_set(weight):
    """An average of buffers starts from a copy that was not initialised, as EMA callbacks make it."""
    fake = make()
    average = copy.deepcopy(fake)
    average.materialize(weight)
    for _ in range(3):
        fake(weight)
        for mean, value in zip(average.buffers(), fake.buffers(), strict=True):
            mean.lerp_(value, 0.01) if mean.is_floating_point() else mean.copy_(value * 0.01 + mean * 0.99)
    resumed = make()
    resumed.load_state_dict(average.state_dict())
    assert resumed.enabled
    assert resumed._initialised


def test_a_frozen_weight_is_palettized_in_training(options, weight):
    fake = make(**options)
    assert fake.training
    assert not fake(weight).requires_grad


def test_autocast_changes_nothing(weight):
    plain, cast = make(), make()
    expected = plain(weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cast(weight), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_names_the_layer(weight, bad):
    fake = make()
    fake.layer_name = "features.0.weight"
    fake(weight)
    weight[0, 0, 0, 0] = bad
    with pytest.raises(WeightError, match=r"features\.0\.weight"):
        fake(weight)
    with pytest.raises(WeightError, match=r"features\.0\.weight"):
        make_named("features.0.weight").initialise(weight)


def make_named(name):
    fake = make()
    fake.layer_name = name
    return fake


@pytest.mark.parametrize(
    "weight",
    [torch.zeros(8, 8), torch.full((8, 8), 0.3), torch.tensor([[0.5]]), torch.eye(8), torch.empty(0, 4)],
    ids=["zeros", "constant", "one element", "two values", "empty"],
)
@pytest.mark.parametrize("name", ["per tensor", "scaled by channel", "keeping zeros", "with a zero"])
def test_degenerate_weights_are_palettized_without_loss(weight, name):
    fake = make(n_bits=2, **VARIANTS[name])
    fake(weight)
    fake.eval()
    torch.testing.assert_close(fake(weight), weight, rtol=1e-5, atol=1e-6)


def test_groups_that_do_not_divide_the_channels_are_refused_with_the_valid_sizes(weight):
    with pytest.raises(ConfigurationError, match=r"valid are \[1, 2, 4, 8, 16\]"):
        make(group_size=5)(weight)


def test_an_unknown_type_of_palette_is_refused():
    with pytest.raises(ConfigurationError, match="lut_dtype='i4' is unknown"):
        make(lut_dtype="i4")


def test_before_it_is_enabled_the_weight_passes_untouched(weight):
    fake = make()
    fake.disable_fake_palett()
    assert fake(weight) is weight
