"""Whatever runs within an optimizer step, quantization starts from the same state and moves once."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.mechanism.schedule import FitLength
from lightning_compress.methods.quantization import LinearQuantization


class Net(nn.Module):
    def __init__(self, reentrant=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.head = nn.Linear(4, 3)
        self.reentrant = reentrant

    def forward(self, x):
        x = self.conv(x)
        x = self.body(x) if self.reentrant is None else checkpoint(self.body, x, use_reentrant=self.reentrant)
        return self.head(x.mean((2, 3)))


def batch(index):
    return torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(index)) * (index + 1)


def train(keys, step, net=None, steps=6):
    """The state after some steps, each taken by `step`."""
    net = Net() if net is None else net
    prepared = PreparedModule(net, [LinearQuantization(milestones=[0, 1, 4, -1], **keys)])
    optimizer = torch.optim.SGD(net.parameters(), 0.02)
    prepared.start_training()
    for index in range(steps):
        optimizer.zero_grad()
        step(net, index)
        optimizer.step()
        prepared.step()
    return prepared, net.state_dict()


def plain(net, index):
    net(batch(index)).square().mean().backward()


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(
            second[name], tensor, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )


ALGORITHMS = pytest.mark.parametrize(
    "keys", [{}, {"algorithm": "learnable"}, {"algorithm": "learnable", "quantization_scheme": "affine"}]
)


@ALGORITHMS
def test_further_passes_change_nothing(keys):
    def step(net, index):
        plain(net, index)
        with torch.no_grad():
            net(batch(20) * 50)

    assert_same(train(keys, plain)[1], train(keys, step)[1])


@ALGORITHMS
def test_evaluation_in_between_changes_nothing(keys):
    def step(net, index):
        net.eval()
        with torch.no_grad():
            net(batch(20) * 50)
        net.train()
        plain(net, index)
        net.eval()
        with torch.no_grad():
            net(batch(20) * 50)
        net.train()

    assert_same(train(keys, plain)[1], train(keys, step)[1])


@ALGORITHMS
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:torch.utils.checkpoint")
def test_activation_checkpointing_changes_nothing(keys, reentrant):
    assert_same(train(keys, plain)[1], train(keys, plain, Net(reentrant))[1])


@ALGORITHMS
def test_accumulated_gradients_are_those_of_one_state(keys):
    """Each part of a batch is rounded as the first one and itself say, whatever came before it in the step."""

    def accumulate(order):
        def step(net, index):
            for part in order:
                net(batch(part)).square().mean().backward()

        return step

    prepared, state = train(keys, accumulate([0, 1, 2]))
    _, other = train(keys, accumulate([0, 2, 1]))
    assert_same(state, other)
    assert prepared.unfinished() == []


@ALGORITHMS
def test_a_fit_taken_up_again_is_the_same_fit(keys):
    whole = train(keys, plain)[1]
    half, state = train(keys, plain, steps=3)
    progress = copy.deepcopy(half.state_dict())
    net = Net()
    prepared = PreparedModule(net, [LinearQuantization(milestones=[0, 1, 4, -1], **keys)])
    optimizer = torch.optim.SGD(net.parameters(), 0.02)
    net.load_state_dict(state)
    prepared.load_state_dict(progress)
    prepared.start_training()
    for index in range(3, 6):
        optimizer.zero_grad()
        plain(net, index)
        optimizer.step()
        prepared.step()
    assert_same(whole, net.state_dict())


@ALGORITHMS
def test_every_parameter_has_a_gradient_before_rounding_begins(keys):
    net = Net()
    PreparedModule(net, [LinearQuantization(milestones=[2, 2, 4, -1], **keys)])
    plain(net, 0)
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)


def test_a_rehearsal_ends_with_something_observed():
    net = Net()
    prepared = PreparedModule(net, [LinearQuantization(milestones=[0.2, 0.4, 0.6, 0.8])])
    prepared.resolve_schedule(FitLength(1, rehearsal=True))
    plain(net, 0)
    prepared.step()
    finalized = prepared.finalize([(batch(1),)])
    assert torch.isfinite(finalized(batch(2))).all()
    assert finalized.head._buffers["_COREML_/weight/quantization_n_bits"] == 8
