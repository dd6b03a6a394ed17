"""Whatever runs within an optimizer step, palettes and gradients are those of one forward pass."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.methods.palettes import LAYERS, batch, network, palette_of, prepared

VARIANTS = {
    "plain": {},
    "in groups": {"granularity": "per_grouped_channel", "group_size": 2},
    "scaled": {"enable_per_channel_scale": True},
    "vectors": {"cluster_dim": 2},
    "in part": {"granularity": "per_grouped_channel", "group_size": 2, "percentage_palett_enable": 0.5},
    "from the first step on": {"milestone": 0.1},
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def options(request):
    return request.param


def step(preparation, optimizer, number, run):
    optimizer.zero_grad()
    run(preparation.module, batch(number))
    gradients = [parameter.grad.clone() for parameter in preparation.module.parameters()]
    optimizer.step()
    preparation.step()
    return gradients


def fit(options, run):
    """Gradients of every step, and the state dict after each."""
    preparation = prepared(**options)
    preparation.start_training()
    optimizer = torch.optim.SGD(preparation.module.parameters(), lr=0.1)
    gradients, states = [], []
    for number in range(3):
        gradients += step(preparation, optimizer, number, run)
        states.append(copy.deepcopy(preparation.module.state_dict()))
    return gradients, states


def once(module, images):
    module(images).square().mean().backward()


def twice(module, images):
    with torch.no_grad():
        module(images)
    once(module, images)


def with_evaluation(module, images):
    module.eval()
    with torch.no_grad():
        module(images)
    module.train()
    output = module(images)
    module.eval()
    module(images)
    module.train()
    output.square().mean().backward()


def checkpointed(use_reentrant):
    def run(module, images):
        images.requires_grad_(use_reentrant)
        checkpoint(module, images, use_reentrant=use_reentrant).square().mean().backward()

    return run


def checkpointed_by_layer(module, images):
    for layer in module:
        images = checkpoint(layer, images, use_reentrant=False)
    images.square().mean().backward()


@pytest.mark.parametrize(
    "run",
    [twice, with_evaluation, checkpointed(True), checkpointed(False), checkpointed_by_layer],
    ids=["twice", "evaluation", "checkpoint, reentrant", "checkpoint", "checkpoint by layer"],
)
def test_palettes_and_gradients_are_those_of_one_pass(options, run):
    gradients, states = fit(options, once)
    others, other_states = fit(options, run)
    assert all(torch.equal(one, other) for one, other in zip(gradients, others, strict=True))
    for state, other in zip(states, other_states, strict=True):
        assert state.keys() == other.keys()
        assert all(torch.equal(state[name], other[name]) for name in state)


def test_accumulated_gradients_are_sums_of_passes_from_one_palette(options):
    preparation = prepared(**options)
    preparation.start_training()
    sums = [torch.zeros_like(parameter) for parameter in preparation.module.parameters()]
    for number in range(3):
        preparation.module.zero_grad()
        once(preparation.module, batch(number))
        for total, parameter in zip(sums, preparation.module.parameters(), strict=True):
            total += parameter.grad
    accumulated = prepared(**options)
    accumulated.start_training()
    for number in range(3):
        once(accumulated.module, batch(number))
    for total, parameter in zip(sums, accumulated.module.parameters(), strict=True):
        torch.testing.assert_close(total, parameter.grad)


def test_only_a_step_moves_the_palette(options):
    preparation = prepared(**{**options, "milestone": 0})
    preparation.start_training()
    before = copy.deepcopy(preparation.module.state_dict())
    for number in range(3):
        once(preparation.module, batch(number))
    preparation.report()
    assert all(torch.equal(before[name], value) for name, value in preparation.module.state_dict().items())
    preparation.step()
    assert any(
        not torch.equal(
            before[f"{name}.parametrizations.weight.0.palette"], palette_of(preparation.module, name).palette
        )
        for name in LAYERS
    )


def test_evaluation_before_training_starts_keeps_nothing():
    preparation = prepared()
    preparation.module.eval()
    before = copy.deepcopy(preparation.module.state_dict())
    first, second = preparation.module(batch(0)), preparation.module(batch(0))
    assert torch.equal(first, second)
    assert len(preparation.module[2].weight.unique()) == 4
    assert all(torch.equal(before[name], value) for name, value in preparation.module.state_dict().items())


def test_a_tied_weight_moves_once_a_step():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 16)
            self.head = nn.Linear(16, 50, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.embedding(tokens))

    preparation = prepared(Tied())
    preparation.start_training()
    palette = preparation.module.head.parametrizations.weight[0]
    assert palette is preparation.module.embedding.parametrizations.weight[0]
    _, expected = palette._form.cluster(
        preparation.module.head.parametrizations.weight.original,
        palette._palettes(preparation.module.head.parametrizations.weight.original),
    )
    preparation.module(torch.arange(8)).square().mean().backward()
    preparation.step()
    assert torch.equal(palette.palette, expected)
    finalized = preparation.finalize()
    assert finalized.head.weight is finalized.embedding.weight


def test_a_copy_goes_its_own_way(options):
    preparation = prepared(**options)
    preparation.start_training()
    once(preparation.module, batch(0))
    before = copy.deepcopy(preparation.module.state_dict())
    twin = copy.deepcopy(preparation.module)
    for name in LAYERS:
        palette_of(twin, name).commit()
    assert all(torch.equal(before[name], value) for name, value in preparation.module.state_dict().items())


def test_nothing_of_the_size_of_the_weight_is_kept():
    preparation = prepared(network())
    preparation.start_training()
    once(preparation.module, batch(0))
    palette = palette_of(preparation.module, "2")
    held = [
        value
        for value in (*vars(palette).values(), *palette._buffers.values(), *(palette._proposal or ()))
        if isinstance(value, torch.Tensor)
    ]
    assert held
    assert all(value.numel() < 100 for value in held)
