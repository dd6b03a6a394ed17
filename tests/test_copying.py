"""A module is copied whole, whatever it keeps beside its parameters."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_compress.copying import copy_whole
from lightning_compress.errors import CompressionError


@dataclass
class Kept:
    """Something of the last forward pass, in an object of one's own."""

    loss: Tensor


class InSlots:
    __slots__ = ("loss",)

    def __init__(self, loss: Tensor) -> None:
        self.loss = loss


class Keeping(nn.Module):
    """Keeps something of its forward pass."""

    def __init__(self, keep: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.keep = keep
        self.kept: Any = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        self.kept = self.keep(y.square().mean())
        return y


def endless() -> Any:
    while True:
        yield 1


KEPT: dict[str, Callable[[Tensor], Any]] = {
    "a tensor": lambda loss: loss,
    "a list": lambda loss: [loss, loss * 2],
    "a dictionary of lists": lambda loss: {"aux": [loss]},
    "a tuple in a queue": lambda loss: deque([(loss,)]),
    "an object": Kept,
    "an object with slots": InSlots,
    "a partial function": lambda loss: functools.partial(torch.add, loss),
    "a function": lambda loss: lambda: loss,
    "a generator": lambda loss: endless(),
    "a generator in an object": lambda loss: Kept(endless()),
    "a lock": lambda loss: threading.Lock(),
    "an open file": lambda loss: open("/dev/null"),  # noqa: SIM115
    "a random generator": lambda loss: torch.Generator(),
}


@pytest.mark.parametrize("keep", KEPT.values(), ids=KEPT)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_what_a_forward_leaves_behind_does_not_hinder_a_copy(keep):
    module = Keeping(keep)
    expected = module(torch.ones(2, 4))
    before = module.kept
    twin = copy_whole(module)
    assert module.kept is before
    assert twin.layer.weight is not module.layer.weight
    assert type(twin.kept) is type(module.kept)
    assert torch.equal(twin(torch.ones(2, 4)), expected)


def test_tied_parameters_stay_tied():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    twin = copy_whole(network)
    assert twin[0].weight is twin[1].weight


def test_a_copy_has_the_values_and_no_history():
    module = Keeping(lambda loss: [loss])
    module(torch.ones(2, 4))
    twin = copy_whole(module)
    assert torch.equal(twin.kept[0], module.kept[0])
    assert twin.kept[0].grad_fn is None
    assert module.kept[0].grad_fn is not None


def test_a_hook_of_the_owner_is_copied_without_what_the_owner_alone_knows():
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(4, 4)
            self.trainer = Kept(endless())
            self.features: list[Tensor] = []
            self.model.register_forward_hook(self.remember)

        def remember(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.features.append(output)

    owner = Owner()
    owner.model(torch.ones(1, 4))
    twin = copy_whole(owner.model)
    twin(torch.ones(1, 4))
    assert len(owner.features) == 1


def test_one_thing_held_twice_is_one_in_the_copy():
    module = Keeping(lambda loss: [loss])
    module(torch.ones(2, 4))
    module.other = module.kept
    twin = copy_whole(module)
    assert twin.other is twin.kept


def test_a_part_that_refuses_is_named():
    class Refusing(nn.Linear):
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise TypeError("no copies of me")

    with pytest.raises(CompressionError, match="Sequential cannot be copied.*no copies of me"):
        copy_whole(nn.Sequential(Refusing(2, 2)))
