"""Whatever runs within an optimizer step, gradients and masks come out bit for bit the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_compress import MagnitudePruning
from lightning_compress.methods import PreparedModule
from lightning_compress.methods.mechanism.schedule import FitLength

STEPS = 6
KEYS = {"target_sparsity": 0.75, "scheduler": {"update_steps": [1, 2, 4, 5]}}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(288, 6))


def plain(module, batch):
    module(batch).square().mean().backward()


def halves(module, batch):
    """Gradient accumulation: each half of the batch in a backward of its own."""
    for half in batch.split(2):
        (module(half).square().mean() / 2).backward()


def twice(module, batch):
    """Two forwards, one of them for nothing, before the backward."""
    with torch.no_grad():
        module(batch * 3)
    module(batch + 1)
    plain(module, batch)


def evaluated(module, batch):
    """Validation between forward and backward."""
    output = module(batch)
    module.eval()
    with torch.no_grad():
        module(batch * 2)
    module.train()
    output.square().mean().backward()


def checkpointed(reentrant):
    def backward(module, batch):
        batch = batch.clone().requires_grad_()
        checkpoint(module, batch, use_reentrant=reentrant).square().mean().backward()

    return backward


def train(backward, allocation):
    module = network()
    prepared = PreparedModule(module, [MagnitudePruning(**KEYS, allocation=allocation)])
    prepared.resolve_schedule(FitLength(STEPS))
    prepared.start_training()
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    seen = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        backward(module, torch.randn(4, 3, 8, 8, generator=generator))
        seen += [parameter.grad.clone() for parameter in module.parameters()]
        optimizer.step()
        prepared.step()
        seen += [mask.mask.clone() for mask in prepared.techniques()]
    return seen


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize(
    "backward",
    [twice, evaluated, checkpointed(True), checkpointed(False)],
    ids=["two forwards", "evaluation", "reentrant checkpointing", "checkpointing"],
)
def test_a_step_is_the_same_whatever_else_runs_within_it(backward, allocation):
    for found, expected in zip(train(backward, allocation), train(plain, allocation), strict=True):
        assert torch.equal(found, expected)


def test_accumulated_gradients_are_those_of_the_masked_weights():
    """Bit for bit those of the same network with its zeros written into plain weights."""
    module = network()
    prepared = PreparedModule(module, [MagnitudePruning(target_sparsity=0.75)])
    prepared.start_training()
    prepared.resolve_schedule(FitLength(STEPS))
    prepared.step()
    dense = network()
    with torch.no_grad():
        for index, mask in zip((0, 3), prepared.techniques(), strict=True):
            dense[index].weight.mul_(mask.mask)
    batch = torch.randn(4, 3, 8, 8)
    halves(module, batch)
    halves(dense, batch)
    for index, mask in zip((0, 3), prepared.techniques(), strict=True):
        gradient = module[index].parametrizations.weight.original.grad
        assert torch.equal(gradient, dense[index].weight.grad * mask.mask)


def test_steps_without_a_forward_and_reports_change_nothing():
    module = network()
    prepared = PreparedModule(module, [MagnitudePruning(**KEYS)])
    prepared.resolve_schedule(FitLength(STEPS))
    prepared.start_training()
    prepared.step()
    prepared.step()
    before = copy.deepcopy(module.state_dict())
    prepared.report()
    prepared.metrics()
    prepared.finalize()
    prepared.finalize(rehearses=True)
    prepared.start_training()
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
