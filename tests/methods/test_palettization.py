"""`DKMPalettization` while it trains: when it begins, what it keeps, and unusual weights."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from lightning_compress.errors import ConfigurationError, WeightError
from lightning_compress.methods.mechanism.configuration import Schema
from lightning_compress.methods.mechanism.method import Method
from lightning_compress.methods.mechanism.schedule import FitLength
from lightning_compress.methods.mechanism.technique import Stage, Technique
from lightning_compress.methods.palette_options import VECTOR_TAU
from tests.methods.palettes import LAYERS, VARIANTS, batch, network, palette_of, prepared, stored_value, train


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def options(request):
    return request.param


class FixedZeros(Technique):
    """Zeroes every other output channel."""

    stage = Stage.ZEROS
    label = "every other channel is zero"

    def forward(self, tensor: Tensor) -> Tensor:
        mask = torch.ones_like(tensor)
        mask[::2] = 0
        return tensor * mask

    def complete(self, tensor):
        pass

    def store(self, stored):
        return stored


class Zeroing(Method):
    """A technique that decides zeros, however."""

    schema = Schema("Zeroing", type("Nothing", (), {"__dataclass_fields__": {}}))

    def check_values(self, keys, source):
        pass

    def technique(self, reference, keys):
        return FixedZeros(reference.name)

    def capabilities(self, reference, keys):
        return ()


# When it begins.


@pytest.mark.parametrize(("milestone", "begins_after"), [(0, 0), (0.0, 0), (2, 3), (0.5, 3), (1.0, 6)])
def test_palettization_begins_at_the_step_asked(milestone, begins_after):
    preparation = prepared(milestone=milestone)
    preparation.start_training()
    enabled = [palette_of(preparation.module, "0").is_on("enabled")]
    unfinished = [bool(preparation.unfinished())]
    for _ in range(6):
        preparation.step()
        enabled.append(palette_of(preparation.module, "0").is_on("enabled"))
        unfinished.append(bool(preparation.unfinished()))
    assert enabled == [step >= begins_after for step in range(7)]
    assert unfinished == [step < begins_after for step in range(7)]


def test_an_unfinished_schedule_says_where_it_stands():
    preparation = prepared(milestone=4)
    preparation.step()
    assert preparation.unfinished() == ["palettization stands at step 1 of 5, its last milestone"]


def test_before_its_milestone_the_weight_passes_untouched():
    preparation = prepared(milestone=4)
    train(preparation, 1)
    layer = preparation.module[0]
    assert torch.equal(layer.weight, layer.parametrizations.weight.original)


def test_a_milestone_beyond_the_fit_is_refused():
    preparation = prepared(steps=20, milestone=8)
    with pytest.raises(ConfigurationError, match="the palettization schedule ends at optimizer step 9"):
        preparation.resolve_schedule(FitLength(5))


@pytest.mark.parametrize("options", [{"milestone": 5}, {}], ids=["before its milestone", "before training"])
def test_a_module_finalized_early_is_palettized_all_the_same(options):
    finalized = prepared(**options).finalize()
    assert all(len(finalized.get_submodule(name).weight.unique()) == 4 for name in LAYERS)


# What it keeps.


@pytest.mark.parametrize("interrupted_at", [1, 3, 5])
@pytest.mark.parametrize("milestone", [0, 2])
def test_a_resumed_fit_equals_one_that_never_stopped(interrupted_at, milestone, options):
    options = {**options, "milestone": milestone}
    whole = prepared(**options)
    train(whole, interrupted_at)
    state, progress = copy.deepcopy(whole.module.state_dict()), whole.state_dict()
    train(whole, 6 - interrupted_at, first=interrupted_at)
    resumed = prepared(**options)
    resumed.module.load_state_dict(state)
    for _ in range(2):
        resumed.load_state_dict(progress)
    train(resumed, 6 - interrupted_at, first=interrupted_at)
    for (name, value), other in zip(
        whole.module.state_dict().items(), resumed.module.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name


def test_the_state_dict_has_its_shapes_from_the_start_and_holds_small_tensors(options):
    fresh, trained = prepared(**options), prepared(**options)
    train(trained, 2)
    shapes = {name: value.shape for name, value in trained.module.state_dict().items()}
    assert {name: value.shape for name, value in fresh.module.state_dict().items()} == shapes
    safetensors.torch.save(dict(trained.module.state_dict()))


def test_the_palette_keeps_its_precision_when_the_module_is_cast():
    preparation = prepared(enable_per_channel_scale=True)
    train(preparation, 2)
    palette = palette_of(preparation.module, "2")
    before, scales = palette.palette.clone(), palette.scales.clone()
    preparation.module.to(torch.bfloat16)
    assert torch.equal(palette.palette, before)
    assert torch.equal(palette.scales, scales)
    assert preparation.module[2].weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_precision_are_trained_and_finalized(dtype, options):
    preparation = prepared(network().to(dtype), **options)
    preparation.start_training()
    preparation.module(batch(0).to(dtype)).square().mean().backward()
    assert preparation.module[2].parametrizations.weight.original.grad.dtype == dtype
    preparation.step()
    finalized = preparation.finalize()[2]
    assert torch.equal(stored_value(finalized), finalized.weight)


def test_autocast_changes_nothing(options):
    preparation = prepared(**options)
    preparation.start_training()
    expected = preparation.module[2].weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(preparation.module[2].weight, expected)


def test_a_frozen_weight_is_palettized_in_training(options):
    module = network().requires_grad_(False)
    preparation = prepared(module, **options)
    preparation.start_training()
    assert not preparation.module(batch(0)).requires_grad


def test_averaged_switches_stay_set():
    """An average of buffers starts from a copy that was not initialised, as averaging callbacks make it."""
    preparation = prepared()
    average = copy.deepcopy(preparation.module)
    train(preparation, 1)
    for mean, value in zip(average.buffers(), preparation.module.buffers(), strict=True):
        mean.lerp_(value, 0.01)
    resumed = prepared()
    resumed.module.load_state_dict(average.state_dict())
    assert all(palette_of(resumed.module, "0").is_on(name) for name in ("enabled", "initialised"))


def test_a_fit_loads_neither_coremltools_training_nor_its_classes():
    program = (
        "import sys, coremltools; before = set(sys.modules)\n"
        "import tests.methods.palettes as p\n"
        "preparation = p.prepared(); p.train(preparation, 1); preparation.finalize()\n"
        "new = set(sys.modules) - before\n"
        "print([name for name in new if name.startswith(('coremltools.optimize.torch', 'torch.ao.quantization'))])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_torch_compile_passes_over_it():
    preparation = prepared()
    train(preparation, 1)
    compiled = torch.compile(preparation.module, backend="eager")
    torch.testing.assert_close(compiled(batch(0)), preparation.module(batch(0)))


# Kinds of layers, zeros, and what else is unusual.


class Conv1D(nn.Module):
    """As `transformers.pytorch_utils.Conv1D`: a linear layer whose weight has its outputs last."""

    def __init__(self) -> None:
        super().__init__()
        self.nf = 16
        self.weight = nn.Parameter(torch.randn(8, 16))

    def forward(self, value: Tensor) -> Tensor:
        return value @ self.weight


@pytest.mark.parametrize(
    ("module", "inputs", "weights"),
    [
        (nn.Embedding(50, 8), (torch.arange(5),), 1),
        (nn.Conv1d(4, 16, 3), (torch.randn(2, 4, 9),), 1),
        (nn.Conv3d(2, 16, 3), (torch.randn(2, 2, 5, 5, 5),), 1),
        (nn.ConvTranspose1d(4, 16, 3), (torch.randn(2, 4, 9),), 1),
        (nn.MultiheadAttention(16, 2), (torch.randn(3, 2, 16),) * 3, 2),
        (
            nn.MultiheadAttention(16, 2, kdim=8, vdim=8),
            (torch.randn(3, 2, 16), *(torch.randn(3, 2, 8),) * 2),
            4,
        ),
        (nn.LSTM(8, 16, num_layers=2), (torch.randn(5, 2, 8),), 4),
        (nn.GRUCell(8, 16), (torch.randn(2, 8),), 2),
        (Conv1D(), (torch.randn(2, 8),), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.parametrize("dimensions", [1, 2])
def test_every_kind_of_layer_is_trained_and_finalized(module, inputs, weights, dimensions):
    preparation = prepared(copy.deepcopy(module), weight_threshold=10, cluster_dim=dimensions)
    preparation.start_training()
    for _ in range(2):
        output = preparation.module(*inputs)
        (output[0] if isinstance(output, tuple) else output).square().sum().backward()
        preparation.step()
    assert len(list(preparation.techniques())) == weights
    finalized = preparation.finalize()
    names = [name for name, _ in finalized.named_buffers() if name.endswith("/lut")]
    assert len(names) == weights
    for technique in preparation.techniques():
        weight = finalized.get_parameter(technique.tensor_name)
        vectors = weight.movedim(technique._form.channel_axis, -1).reshape(-1, dimensions)
        assert len(vectors.unique(dim=0)) <= 4
    preparation.module.eval()
    torch.testing.assert_close(preparation.module(*inputs), finalized(*inputs))


@pytest.mark.parametrize("options", [{}, {"cluster_dim": 2}, {"lut_dtype": "i8"}, {"n_bits": 1}], ids=str)
def test_zeros_of_another_technique_stay_zeros_and_no_others_come(options):
    module = nn.Sequential(nn.Linear(32, 16))
    preparation = prepared(
        module,
        Zeroing(),
        weight_threshold=0,
        **{**options, "cluster_permute": [1, 0]} if "cluster_dim" in options else options,
    )
    preparation.start_training()
    for _ in range(2):
        preparation.module(torch.randn(2, 32)).square().mean().backward()
        preparation.step()
    palette = palette_of(module, "0")
    assert palette.keeps_zeros
    assert not palette.palette[:, 0].any()
    weight = preparation.finalize()[0].weight
    assert not weight[::2].any()
    assert bool((weight[1::2] != 0).all()) or palette._form.cluster_dim > 1


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(8, 8),
        torch.full((8, 8), 0.3),
        torch.eye(8),
        torch.zeros(8, 8).index_fill_(0, torch.tensor(2), 1.0),
    ],
    ids=["zeros", "constant", "two values", "one channel"],
)
@pytest.mark.parametrize(
    "name", ["per tensor", "scaled by channel", "keeping zeros", "with a zero", "vectors"]
)
def test_degenerate_weights_are_palettized_without_loss(weight, name):
    module = nn.Sequential(nn.Linear(8, 8))
    with torch.no_grad():
        module[0].weight.copy_(weight)
    preparation = prepared(module, **{**VARIANTS[name], "weight_threshold": 0})
    preparation.start_training()
    preparation.module(torch.randn(2, 8))
    preparation.step()
    torch.testing.assert_close(preparation.finalize()[0].weight.detach(), weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(bad):
    preparation = prepared()
    preparation.start_training()
    with torch.no_grad():
        preparation.module[2].parametrizations.weight.original[0, 0, 0, 0] = bad
    with pytest.raises(WeightError, match=r"2\.weight"):
        preparation.module(batch(0))
    with pytest.raises(WeightError, match="2"):
        preparation.finalize()


def test_the_report_tells_palettes_and_shares():
    preparation = prepared()
    train(preparation, 1)
    entry = preparation.report()["2.weight"]
    assert entry.error < 0.5
    assert torch.equal(entry.values["palette"], palette_of(preparation.module, "2").palette)
    assert float(entry.values["shares"].sum()) == pytest.approx(1.0)
    assert preparation.module.training


# How soft.


@pytest.mark.parametrize("keys", [{}, {"enable_per_channel_scale": True}, {"cluster_dim": 2}], ids=str)
def test_a_relative_temperature_is_a_share_of_what_is_palettized(keys):
    preparation = prepared(relative_tau=0.2, **keys)
    preparation.start_training()
    for technique in preparation.techniques():
        weight = preparation.module.get_parameter(
            technique.tensor_name.replace(".weight", ".parametrizations.weight.original")
        )
        values = (
            weight
            if technique.scales is None
            else weight / technique.scales.view(-1, *[1] * (weight.dim() - 1))
        )
        variance = float(values.detach().double().var(correction=0))
        assert technique._form.clustering.temperature == pytest.approx(0.2 * variance)


def test_vectors_have_a_relative_temperature_unless_one_is_given_and_scalars_that_of_coremltools():
    def temperatures(**keys):
        preparation = prepared(cluster_dim=2, **keys)
        preparation.start_training()
        return [technique._form.clustering.temperature for technique in preparation.techniques()]

    # A bit an element leaves a quarter of its variance.
    assert temperatures(n_bits=2) == temperatures(n_bits=2, relative_tau=VECTOR_TAU * 2 / 4)
    assert temperatures(n_bits=4) == temperatures(n_bits=4, palett_tau=None)
    assert temperatures(n_bits=4) == pytest.approx([each / 4 for each in temperatures(n_bits=2)])
    assert set(temperatures(palett_tau=1e-3)) == {1e-3}
    preparation = prepared()
    preparation.start_training()
    assert {technique._form.clustering.temperature for technique in preparation.techniques()} == {1e-4}


@pytest.mark.parametrize("keys", [{"relative_tau": 0.2}, {"cluster_dim": 2}], ids=str)
def test_with_a_relative_temperature_the_size_of_weights_does_not_matter(keys):
    def clustered(factor):
        module = network()
        with torch.no_grad():
            module[2].weight.mul_(factor)
        preparation = prepared(module, **keys)
        preparation.start_training()
        module.train()
        return module[2].weight.detach()

    torch.testing.assert_close(64 * clustered(1), clustered(64))


def test_a_weight_of_one_value_has_the_temperature_of_the_configuration():
    module = network()
    nn.init.constant_(module[2].weight, 0.5)
    preparation = prepared(module, relative_tau=0.2)
    train(preparation, 2)
    assert palette_of(module, "2")._form.clustering.temperature == 1e-4


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"relative_tau": 0.0},
            "relative_tau of DKMPalettization, global is 0.0; valid is null, or a float above 0",
        ),
        ({"relative_tau": True}, "valid is null, or a float above 0"),
        (
            {"relative_tau": 0.1, "palett_tau": 1e-4},
            "has palett_tau 0.0001 and relative_tau 0.1, which both set",
        ),
    ],
)
def test_temperatures_that_cannot_be_are_refused(keys, message):
    with pytest.raises(ConfigurationError, match=message):
        prepared(**keys)
