"""Masks and schedules, held against coremltools' own."""

from __future__ import annotations

import copy

import pytest
import torch
from coremltools.optimize.torch.pruning import MagnitudePruner, MagnitudePrunerConfig
from coremltools.optimize.torch.pruning._utils import magnitude_ranked_mask
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_compress import MagnitudePruning
from lightning_compress.methods import PreparedModule
from lightning_compress.methods.magnitude_masks import magnitude_mask
from lightning_compress.methods.mechanism.schedule import FitLength


def train_by_hand(network: nn.Module, step: object, steps: int) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.randn(4, 1, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()
        step()


@given(
    size=st.integers(1, 300),
    sparsity=st.floats(0, 1),
    seed=st.integers(0, 1000),
    coarse=st.booleans(),
)
def test_the_mask_is_coremltools_own(size, sparsity, seed, coarse):
    weight = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    if coarse:
        weight = weight.round()  # many ties
    expected = magnitude_ranked_mask(weight.reshape(size, 1), sparsity, 1, "per_scalar")
    assert torch.equal(magnitude_mask(weight.reshape(size, 1), sparsity), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_mask_serves_every_dtype(dtype):
    weight = torch.randn(64, 32).to(dtype)
    assert float(magnitude_mask(weight, 0.75).float().mean()) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    "keys",
    [
        {"target_sparsity": 0.75, "scheduler": {"update_steps": [1, 3, 5, 8], "power": 2}},
        {"target_sparsity": 0.5, "scheduler": {"update_steps": "range(0, 9, 2)"}, "initial_sparsity": 0.1},
        {"target_sparsity": 0.6, "scheduler": {"begin_step": 4}},
        {"target_sparsity": 0.5, "granularity": "per_channel"},
        {"target_sparsity": 0.5, "granularity": "per_kernel"},
        {"target_sparsity": 0.5, "block_size": 2},
    ],
)
def test_a_fit_ends_like_the_same_loop_written_by_hand(digit_network, keys):
    theirs, ours = copy.deepcopy(digit_network), copy.deepcopy(digit_network)
    pruner = MagnitudePruner(theirs, MagnitudePrunerConfig.from_dict({"global_config": keys}))
    theirs = pruner.prepare(inplace=True)
    train_by_hand(theirs, pruner.step, 10)
    expected = pruner.finalize(inplace=True)

    prepared = PreparedModule(ours, [MagnitudePruning(**keys)])
    prepared.resolve_schedule(FitLength(10))
    train_by_hand(prepared.module, prepared.step, 10)
    finalized = prepared.finalize()
    assert all(
        torch.equal(value, expected.state_dict()[key]) for key, value in finalized.state_dict().items()
    )


def test_a_schedule_in_fractions_reaches_its_target_when_it_says(digit_network):
    prepared = PreparedModule(
        digit_network,
        [MagnitudePruning(target_sparsity=0.8, scheduler={"begin_step": 0.2, "end_step": 0.6, "updates": 5})],
    )
    prepared.resolve_schedule(FitLength(50))
    levels = []
    for _ in range(50):
        prepared.step()
        levels.append(prepared.metrics()["sparsity"])
    assert levels[8] == 0.0
    assert 0.0 <= levels[9] < levels[28]
    assert levels[28] < levels[29] == pytest.approx(0.8, abs=1e-3)
    assert levels[-1] == levels[29]
    assert levels == sorted(levels)


def test_a_copy_of_a_copy_has_weights_of_its_own(digit_network):
    prepared = PreparedModule(digit_network, [MagnitudePruning()])
    prepared.resolve_schedule(FitLength(10))
    first = copy.deepcopy(prepared.module)
    with torch.no_grad():
        first.head.weight_orig.fill_(3.0)
    second = copy.deepcopy(first)
    assert second.head.weight_orig.detach().mean().item() == 3.0


def test_coremltools_still_returns_the_original_from_a_copy_of_a_copy(digit_network):
    """The trap that `masks.PruningMethod.bind_module` mends: when this fails, it can go."""
    theirs = MagnitudePruner(digit_network).prepare(inplace=True)
    first = copy.deepcopy(theirs)
    with torch.no_grad():
        first.head.weight_orig.fill_(3.0)
    assert copy.deepcopy(first).head.weight_orig.detach().mean().item() != 3.0


def test_progress_is_restored_with_the_sparsity_levels(digit_network):
    schedule = {"update_steps": [2, 4, 6, 8]}
    method = MagnitudePruning(target_sparsity=0.89, scheduler=schedule)
    straight = PreparedModule(copy.deepcopy(digit_network), [method])
    straight.resolve_schedule(FitLength(10))
    levels = []
    for _ in range(10):
        straight.step()
        levels.append(straight.metrics()["sparsity"])

    stopped = PreparedModule(copy.deepcopy(digit_network), [method])
    stopped.resolve_schedule(FitLength(10))
    for _ in range(5):
        stopped.step()
    resumed = PreparedModule(copy.deepcopy(digit_network), [method])
    resumed.module.load_state_dict(stopped.module.state_dict())
    resumed.load_state_dict(stopped.state_dict())
    resumed.resolve_schedule(FitLength(10))
    after = []
    for _ in range(5):
        resumed.step()
        after.append(resumed.metrics()["sparsity"])
    assert after == levels[5:]
