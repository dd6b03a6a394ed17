"""Step by step, pruning computes what coremltools' `MagnitudePruner` computes."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from coremltools.optimize.torch.pruning import MagnitudePruner, MagnitudePrunerConfig
from torch import nn

from lightning_compress import MagnitudePruning
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods import PreparedModule
from lightning_compress.methods.mechanism.schedule import FitLength

STEPS = 10
LAYERS = {
    "Linear": (lambda: nn.Linear(12, 9), (5, 12)),
    "Conv1d": (lambda: nn.Conv1d(4, 8, 3), (2, 4, 9)),
    "Conv2d": (lambda: nn.Conv2d(4, 8, 3), (2, 4, 7, 7)),
    "Conv2d of groups": (lambda: nn.Conv2d(8, 8, 3, groups=8), (2, 8, 7, 7)),
    "Conv3d": (lambda: nn.Conv3d(4, 8, 2), (2, 4, 4, 4, 4)),
}
SCHEDULES = {
    "constant": None,
    "constant from a step": {"begin_step": 4},
    "polynomial": {"update_steps": [1, 3, 5, 8], "power": 2},
    "polynomial over a range": {"update_steps": "range(0, 9, 2)"},
    "one update": {"update_steps": [3]},
}


def prepare(network, length=STEPS, **keys):
    prepared = PreparedModule(network, [MagnitudePruning(**keys)])
    prepared.resolve_schedule(FitLength(length))
    prepared.start_training()
    return prepared


def masks(network):
    return {
        name: part.parametrizations.weight[0].mask.bool()
        for name, part in network.named_modules()
        if hasattr(part, "parametrizations")
    }


def agree(one, other):
    """Whether two tensors are the same up to the order of sums.

    coremltools' masks may lie transposed in memory, and some processors multiply such weights in another order.
    """
    return torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def train_both(network, shape, keys):
    """Train both for some steps, and compare every number after each."""
    pruner = MagnitudePruner(
        copy.deepcopy(network),
        MagnitudePrunerConfig.from_dict({"global_config": {k: v for k, v in keys.items() if v is not None}}),
    )
    theirs = pruner.prepare(inplace=True)
    prepared = prepare(network, **keys)
    generator = torch.Generator().manual_seed(0)
    optimizers = [torch.optim.SGD(each.parameters(), 0.1, momentum=0.9) for each in (theirs, network)]
    for _ in range(STEPS):
        batch = torch.randn(shape, generator=generator)
        outputs, gradients = [], []
        for each, optimizer in zip((theirs, network), optimizers, strict=True):
            optimizer.zero_grad()
            output = each(batch)
            output.square().mean().backward()
            outputs.append(output.detach())
            gradients.append([parameter.grad.clone() for parameter in each.parameters()])
            optimizer.step()
        pruner.step()
        prepared.step()
        assert agree(*outputs)
        for ours, name in zip(masks(network).values(), masks(network), strict=True):
            expected = theirs.get_submodule(name).weight_mask
            assert ours.dtype == torch.bool
            assert torch.equal(ours, expected.bool().expand(ours.shape))
            original = network.get_submodule(name).parametrizations.weight.original
            assert agree(original, theirs.get_submodule(name).weight_orig)
        assert all(
            any(agree(one, other) for other in gradients[1] if one.shape == other.shape)
            for one in gradients[0]
        )
    expected = pruner.finalize(inplace=True).state_dict()
    found = prepared.finalize().state_dict()
    assert all(agree(found[key], value) for key, value in expected.items())
    assert found.keys() == expected.keys()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("layer", LAYERS)
def test_schedules_follow_coremltools(layer, schedule):
    make, shape = LAYERS[layer]
    keys = {"target_sparsity": 0.75, "scheduler": SCHEDULES[schedule]}
    train_both(nn.Sequential(make()), shape, keys)


@pytest.mark.parametrize("initial", [0.1, 0.6])
def test_an_initial_sparsity_holds_from_the_first_forward(initial):
    make, shape = LAYERS["Conv2d"]
    keys = {"target_sparsity": 0.5, "initial_sparsity": initial, "scheduler": {"update_steps": [3, 6]}}
    train_both(nn.Sequential(make()), shape, keys)


@pytest.mark.parametrize("block_size", [1, 2, 3, 4])
@pytest.mark.parametrize("granularity", ["per_scalar", "per_kernel", "per_channel"])
@pytest.mark.parametrize("layer", LAYERS)
def test_granularities_and_blocks_follow_coremltools(layer, granularity, block_size):
    make, shape = LAYERS[layer]
    keys = {
        "granularity": granularity,
        "block_size": block_size,
        "scheduler": {"update_steps": [2, 4, 6]},
    }
    train_both(nn.Sequential(make()), shape, keys)


@pytest.mark.parametrize("ratio", [[2, 4], [1, 4], [3, 4], [1, 2]])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("layer", ["Linear", "Conv1d", "Conv2d", "Conv3d"])
def test_ratios_follow_coremltools(layer, dim, ratio):
    make, shape = LAYERS[layer]
    make = (lambda: nn.Linear(12, 8)) if layer == "Linear" else make
    keys = {"n_m_ratio": ratio, "dim": dim, "scheduler": {"update_steps": [1, 2, 4, 6]}}
    train_both(nn.Sequential(make()), shape, keys)


def test_a_whole_network_follows_coremltools(digit_network):
    train_both(digit_network, (4, 1, 8, 8), {"target_sparsity": 0.8, "scheduler": {"update_steps": [1, 5]}})


def test_a_schedule_in_fractions_reaches_its_target_when_it_says(digit_network):
    prepared = prepare(
        digit_network,
        50,
        target_sparsity=0.8,
        scheduler={"begin_step": 0.2, "end_step": 0.6, "updates": 5},
    )
    levels = []
    for _ in range(50):
        assert (prepared.unfinished() == []) == (len(levels) >= 30)
        prepared.step()
        levels.append(prepared.metrics()["sparsity"])
    assert levels[8] == 0.0
    assert 0.0 <= levels[9] < levels[28]
    assert levels[28] < levels[29] == pytest.approx(0.8, abs=1e-3)
    assert levels[-1] == levels[29]
    assert levels == sorted(levels)


def test_a_schedule_that_has_not_ended_says_where_it_stands(digit_network):
    prepared = prepare(digit_network, target_sparsity=0.5, scheduler={"update_steps": [1, 8]})
    for _ in range(3):
        prepared.step()
    assert prepared.unfinished() == ["pruning stands at step 3 of 8 and at a sparsity of 0.000"]


def test_a_copy_of_a_copy_has_weights_and_a_mask_of_its_own(digit_network):
    prepared = prepare(digit_network)
    prepared.step()
    first = copy.deepcopy(prepared.module)
    with torch.no_grad():
        first.head.parametrizations.weight.original.fill_(3.0)
        first.head.parametrizations.weight[0].mask.fill_(1)
    second = copy.deepcopy(first)
    assert second.head.weight.detach().mean().item() == 3.0
    assert not masks(digit_network)["head"].all()


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("stop", [0, 1, 5, 8])
def test_progress_is_restored_with_the_sparsity_levels(digit_network, stop, allocation):
    schedule = {"update_steps": [2, 4, 6, 8]}
    keys = {"target_sparsity": 0.89, "scheduler": schedule, "allocation": allocation}
    keys |= {"initial_sparsity": 0.1} if allocation == "uniform" else {}
    straight = prepare(copy.deepcopy(digit_network), **keys)
    levels = []
    for _ in range(10):
        straight.step()
        levels.append(straight.metrics()["sparsity"])

    stopped = prepare(copy.deepcopy(digit_network), **keys)
    for _ in range(stop):
        stopped.step()
    resumed = PreparedModule(copy.deepcopy(digit_network), [MagnitudePruning(**keys)])
    resumed.module.load_state_dict(stopped.module.state_dict())
    resumed.load_state_dict(stopped.state_dict())
    resumed.resolve_schedule(FitLength(10))
    resumed.start_training()
    after = []
    for _ in range(10 - stop):
        resumed.step()
        after.append(resumed.metrics()["sparsity"])
    assert after == levels[stop:]
    for ours, name in zip(masks(resumed.module).values(), masks(resumed.module), strict=True):
        assert torch.equal(ours, masks(straight.module)[name])


def test_masked_weights_wait_with_their_values_and_come_back(digit_network):
    """Zhu & Gupta prune from the weights as trained: a weight that grows again is unmasked at the next update."""
    prepared = prepare(digit_network, target_sparsity=0.5, scheduler={"update_steps": [1, 2, 3]})
    original = digit_network.head.parametrizations.weight.original
    prepared.step()
    prepared.step()
    mask = masks(digit_network)["head"]
    row, column = (~mask).nonzero()[0].tolist()
    assert original[row, column] != 0
    with torch.no_grad():
        original[row, column] = 100.0
    prepared.step()
    assert masks(digit_network)["head"][row, column]
    assert digit_network.head.weight[row, column] == 100.0


def test_a_rehearsal_takes_the_target_and_leaves_training_as_it_is(digit_network):
    prepared = prepare(digit_network, target_sparsity=0.75, scheduler={"begin_step": 5})
    rehearsed = prepared.finalize(rehearses=True)
    assert float((rehearsed.head.weight == 0).float().mean()) == pytest.approx(0.75, abs=1e-3)
    assert all(mask.all() for mask in masks(digit_network).values())
    assert prepared.finalize().state_dict().keys() == digit_network_keys(digit_network)


def digit_network_keys(network):
    """What a dense network has, and the version of the metadata."""
    keys = {key.replace(".parametrizations.weight.original", ".weight") for key in network.state_dict()}
    return {key for key in keys if ".parametrizations." not in key} | {"_COREML_/metadata_version"}


def test_the_length_of_a_fit_bounds_its_schedule(digit_network):
    prepared = PreparedModule(digit_network, [MagnitudePruning(scheduler={"begin_step": 11})])
    with pytest.raises(ConfigurationError, match="pruning schedule of 'features.0.weight' ends at optimizer"):
        prepared.resolve_schedule(FitLength(10))
    prepared.resolve_schedule(FitLength(math.inf))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"block_size": 16, "granularity": "per_channel"},
            "block_size is 16, but 'features.0.weight' has 16",
        ),
        ({"n_m_ratio": [2, 4]}, r"n_m_ratio \[2, 4\] needs .* along its dim 1 that 4 divides.* has 1;"),
        ({"n_m_ratio": [1, 3], "dim": 0}, r"along its dim 0 that 3 divides, and 'features.0.weight' has 16"),
        (
            {"param_name": "kernel"},
            r"'kernel' is no parameter of 'features.0'; valid are \['weight', 'bias'\]",
        ),
    ],
)
def test_what_does_not_fit_a_tensor_is_refused_by_its_name(digit_network, keys, message):
    with pytest.raises(ConfigurationError, match=message):
        PreparedModule(digit_network, [MagnitudePruning(**keys)])
    assert not hasattr(digit_network.head, "parametrizations")
