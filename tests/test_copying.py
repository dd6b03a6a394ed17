"""Modules are copied whole, whatever they keep beside their parameters."""

from __future__ import annotations

import threading
from collections import deque

import pytest
import torch
from torch import nn

from lightning_compress.copying import copy_whole

KEPT = {
    "a result": lambda result: result,
    "a list": lambda result: [result, 3],
    "a nested dictionary": lambda result: {"losses": {"first": (result,)}},
    "a queue": lambda result: deque([result], maxlen=3),
    "a generator of torch": lambda _: torch.Generator(),
    "a generator of Python": lambda _: (number for number in range(3)),
    "a lock": lambda _: threading.Lock(),
}


def network_that_keeps(kind: str) -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    network.kept = KEPT[kind](network(torch.rand(2, 4)).mean())
    return network


@pytest.mark.parametrize("kind", KEPT)
def test_a_copy_computes_the_same_and_shares_no_parameter(kind):
    network = network_that_keeps(kind)
    duplicate = copy_whole(network)
    inputs = torch.rand(3, 4)
    assert torch.equal(duplicate(inputs), network(inputs))
    assert duplicate[0].weight.data_ptr() != network[0].weight.data_ptr()
    assert type(duplicate.kept) is type(network.kept)


def test_a_kept_result_is_copied_as_its_value():
    network = network_that_keeps("a nested dictionary")
    kept = copy_whole(network).kept["losses"]["first"][0]
    original = network.kept["losses"]["first"][0]
    assert torch.equal(kept, original)
    assert kept.grad_fn is None
    assert original.grad_fn is not None


def test_tied_parameters_stay_tied():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    duplicate = copy_whole(network)
    assert duplicate[0].weight is duplicate[1].weight
