"""`DKMPalettizer`: coremltools' traps are gone, one test for each."""

from __future__ import annotations

import copy

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.optimize.torch.palettization import DKMPalettizer as CoreMLDKMPalettizer
from coremltools.optimize.torch.palettization import DKMPalettizerConfig
from coremltools.optimize.torch.pruning import MagnitudePruner, MagnitudePrunerConfig
from torch import nn

from lightning_compress.dkm import DKMPalettizer, FakePalettize
from lightning_compress.dkm.pruned import copy_prepared
from lightning_compress.errors import ConfigurationError, WeightError

pytestmark = [
    # What `torch.jit.trace` and coremltools' converter of torch 2.14 programs say of themselves.
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

LAYERS = ("0", "2", "6")


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def config_of(**options):
    return DKMPalettizerConfig.from_dict({"global_config": {"n_bits": 2, "weight_threshold": 100, **options}})


def prepared(kernel="histogram", model=None, **options):
    palettizer = DKMPalettizer(network() if model is None else model, config_of(**options), kernel=kernel)
    return palettizer, palettizer.prepare()


def train(model, steps, *optimizers, first=0):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(first, first + steps):
        images = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
        for each in optimizers:
            each.step()


def distinct(model, name):
    return len(model.get_submodule(name).weight.unique())


@pytest.mark.parametrize("kernel", ["histogram", "coremltools"])
def test_a_fit_ends_with_as_many_values_as_the_palette_has(kernel):
    palettizer, model = prepared(kernel)
    train(model, 3, palettizer)
    finalized = palettizer.finalize()
    for name in LAYERS:
        assert distinct(finalized, name) <= 4
        assert f"{name}._COREML_/weight/lut" in finalized.state_dict()
    assert isinstance(model[0].weight_fake_quant, FakePalettize)


@pytest.mark.parametrize(
    "options", [{"milestone": 100}, {}], ids=["before its milestone", "before its first forward"]
)
def test_a_model_finalized_early_is_palettized_all_the_same(options):
    palettizer, _ = prepared(**options)
    finalized = palettizer.finalize()
    assert all(distinct(finalized, name) == 4 for name in LAYERS)


def test_palettization_begins_at_the_step_asked():
    palettizer, model = prepared(milestone=2)
    enabled = []
    for _ in range(4):
        palettizer.step()
        enabled.append(model[0].weight_fake_quant.enabled)
    assert enabled == [False, False, True, True]


def test_a_milestone_that_a_resumed_count_has_passed_is_not_missed():
    palettizer, model = prepared(milestone=2)
    palettizer.load_state_dict({"step_count": 7})
    assert model[0].weight_fake_quant.enabled
    skipped, model = prepared(milestone=2)
    skipped._step_count = 5
    skipped.step()
    assert model[0].weight_fake_quant.enabled


@pytest.mark.parametrize("interrupted_at", [1, 3, 5])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"milestone": 2},
        {"granularity": "per_grouped_channel", "group_size": 2},
        {"enable_per_channel_scale": True},
        {"cluster_dim": 2},
    ],
    ids=["plain", "milestone", "groups", "scales", "vectors"],
)
def test_a_resumed_fit_equals_one_that_never_stopped(interrupted_at, options):
    palettizer, model = prepared(**options)
    torch.manual_seed(3)
    train(model, interrupted_at, palettizer)
    state, progress = copy.deepcopy(model.state_dict()), palettizer.state_dict()
    train(model, 6 - interrupted_at, palettizer, first=interrupted_at)
    resumed, again = prepared(**options)
    again.load_state_dict(state)
    for _ in range(2):
        resumed.load_state_dict(progress)
    torch.manual_seed(3)
    train(again, 6 - interrupted_at, resumed, first=interrupted_at)
    if options.get("cluster_dim") == 2 and interrupted_at < 3:
        # The random restarts of coremltools' k-means are part of its kernel.
        return
    for (name, value), other in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def joint(sparsity=0.5):
    palettizer, model = prepared()
    config = {"target_sparsity": sparsity, "scheduler": {"update_steps": [1, 2, 3]}}
    pruner = MagnitudePruner(model, MagnitudePrunerConfig.from_dict({"global_config": config}))
    return palettizer, pruner, pruner.prepare(inplace=True)


def test_joint_pruning_keeps_sparsity_and_palette():
    palettizer, pruner, model = joint()
    train(model, 6, palettizer, pruner)
    report = palettizer.report()
    assert all(report[name]["error"] < 0.1 for name in LAYERS)
    finalized = pruner.finalize(palettizer.finalize(model, inplace=True), inplace=True)
    for name in LAYERS:
        weight = finalized.get_submodule(name).weight
        assert (weight == 0).float().mean().item() == pytest.approx(0.5, abs=1e-3)
        assert distinct(finalized, name) <= 4


def test_joint_training_resumes_with_its_zeros():
    palettizer, pruner, model = joint()
    train(model, 4, palettizer, pruner)
    resumed, _, again = joint()
    again.load_state_dict(model.state_dict())
    resumed.load_state_dict(palettizer.state_dict())
    assert torch.equal(again[2].weight_fake_quant.palette, model[2].weight_fake_quant.palette)
    images = torch.randn(2, 3, 12, 12)
    assert torch.equal(again(images), model(images))


def test_a_copy_of_a_copy_of_a_pruned_model_is_finalized_with_its_own_weights():
    palettizer, pruner, model = joint()
    train(model, 4, palettizer, pruner)
    duplicate = copy_prepared(copy_prepared(model))
    with torch.no_grad():
        duplicate[0].weight_orig.neg_()
    ours, theirs = palettizer.finalize(duplicate), palettizer.finalize(model)
    assert not torch.equal(ours[0].weight, theirs[0].weight)
    torch.testing.assert_close(ours[2].weight, theirs[2].weight)
    # Training goes on with the model that was copied.
    train(model, 1, palettizer, pruner, first=4)


def test_finalize_uses_the_weights_after_the_last_optimizer_step():
    palettizer, pruner, model = joint()
    train(model, 4, palettizer, pruner)
    with torch.no_grad():
        model[0].weight_orig.neg_()
        expected = (model[0].weight_orig * model[0].weight_mask).sign()
    assert torch.equal(palettizer.finalize(model)[0].weight.sign(), expected)


def converted(finalized):
    """The operations of the program that coremltools makes of a finalized model."""
    traced = torch.jit.trace(finalized.eval(), torch.zeros(1, 3, 12, 12))
    program = ct.convert(
        traced,
        inputs=[ct.TensorType(name="image", shape=(1, 3, 12, 12))],
        outputs=[ct.TensorType(name="scores")],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        convert_to="milinternal",
    )
    return program.functions["main"]


@pytest.mark.parametrize("lut_dtype", ["i8", "u8"])
@pytest.mark.parametrize("granularity", [{}, {"granularity": "per_grouped_channel", "group_size": 2}])
def test_an_integer_palette_reaches_the_package(lut_dtype, granularity):
    palettizer, model = prepared(lut_dtype=lut_dtype, **granularity)
    train(model, 1, palettizer)
    finalized = palettizer.finalize()
    function = converted(finalized)
    luts = function.find_ops(op_type="constexpr_lut_to_dense")
    assert len(luts) == 3
    for op, name in zip(luts, LAYERS, strict=True):
        integers = op.lut.op
        assert integers.op_type == "constexpr_blockwise_shift_scale"
        assert integers.data.val.dtype in (np.int8, np.uint8)
        offset = 0 if integers.offset is None else integers.offset.val.astype(np.float32)
        stored = (integers.data.val.astype(np.float32) - offset) * integers.scale.val
        weight = finalized.get_submodule(name).weight.detach().numpy()
        nearest = np.abs(np.unique(weight)[:, None] - stored.reshape(-1)).min(axis=1)
        assert nearest.max() < 1e-6


@pytest.mark.parametrize(
    "options", [{}, {"granularity": "per_grouped_channel", "group_size": 2}, {"cluster_dim": 2}]
)
def test_palettes_reach_the_package(options):
    palettizer, model = prepared(**options)
    train(model, 1, palettizer)
    assert len(converted(palettizer.finalize()).find_ops(op_type="constexpr_lut_to_dense")) == 3


def test_frozen_weights_in_training_mode_are_palettized():
    palettizer, model = prepared()
    model[0].weight.requires_grad_(False)
    train(model, 2, palettizer)
    assert distinct(palettizer.finalize(), "0") == 4


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (nn.LayerNorm(64), (torch.randn(2, 64),)),
        (nn.Embedding(50, 8), (torch.arange(5),)),
        (nn.Conv1d(4, 16, 3), (torch.randn(2, 4, 9),)),
        (nn.Conv3d(2, 16, 3), (torch.randn(2, 2, 5, 5, 5),)),
        (nn.MultiheadAttention(16, 2), (torch.randn(3, 2, 16),) * 3),
        (nn.MultiheadAttention(16, 2, kdim=8, vdim=8), (torch.randn(3, 2, 16), *(torch.randn(3, 2, 8),) * 2)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_every_kind_of_module_is_finalized_after_training(module, inputs):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, *arguments):
            return self.inner(*arguments)

    palettizer = DKMPalettizer(Wrapped(), config_of(weight_threshold=10))
    model = palettizer.prepare()
    output = model(*inputs)
    (output[0] if isinstance(output, tuple) else output).sum().backward()
    finalized = palettizer.finalize()
    luts = [name for name in finalized.state_dict() if name.endswith("/lut")]
    expected = [name for name, child in model.named_modules() if isinstance(child, FakePalettize)]
    assert len(luts) == len(expected)
    weights = [p for n, p in finalized.named_parameters() if "weight" in n]
    assert all(len(weight.unique()) <= 4 for weight in weights)
    finalized(*inputs)


def test_the_report_leaves_the_model_as_it_was():
    palettizer, model = prepared()
    train(model, 1, palettizer)
    before = copy.deepcopy(model.state_dict())
    report = palettizer.report()
    assert set(report) == set(LAYERS)
    assert all(entry["error"] > 0 for entry in report.values())
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_weight_that_is_not_finite_names_its_layer_when_finalized():
    palettizer, model = prepared()
    with torch.no_grad():
        model[2].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(WeightError, match=r"2\.weight holds nan"):
        palettizer.finalize()


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ConfigurationError, match=r"\['histogram', 'coremltools'\]"):
        DKMPalettizer(network(), config_of(), kernel="cuda")


def test_it_is_coremltools_palettizer():
    assert issubclass(DKMPalettizer, CoreMLDKMPalettizer)


def test_a_state_dict_of_plain_types_and_tensors_only():
    palettizer, model = prepared()
    train(model, 1, palettizer)
    assert all(isinstance(value, torch.Tensor) for value in model.state_dict().values())
    assert palettizer.state_dict() == {"step_count": 1}


def test_preparing_keeps_the_mode_and_the_parameters_of_the_model():
    model = network().eval()
    parameters = list(model.parameters())
    palettizer = DKMPalettizer(model, config_of())
    assert not palettizer.prepare(inplace=True).training
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
