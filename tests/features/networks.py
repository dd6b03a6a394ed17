"""Networks that use their weights in ways of their own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.features.cases import Case, Digits, Network, digits, equal, weight
from tests.features.registry import Features

feature = Features()


@feature("frozen layers")
def frozen_layers(case: Case) -> None:
    module = Digits()
    module.model.conv.requires_grad_(False)
    before = module.model.conv.weight.clone()
    case.fit(module=module)
    assert torch.equal(weight(case).flatten(), before.flatten())
    case.check()


@feature("shared weights")
def shared_weights(case: Case) -> None:
    class Tied(Network):
        def __init__(self) -> None:
            super().__init__()
            self.narrow = nn.Linear(64, 64)
            self.again = nn.Linear(64, 64)
            self.again.weight = self.narrow.weight
            self.head = nn.Linear(64, 10)

        def forward(self, images: Tensor) -> Tensor:
            values = self.pool(self.relu(self.norm(self.conv(images)))).flatten(1)[:, :64]
            return self.head(self.again(torch.relu(self.narrow(values))))

    module = Digits(Tied)
    case.fit(module=module)
    case.check()
    finalized: Any = case.compression.finalized
    narrow, again = (finalized.get_submodule(name) for name in ("narrow", "again"))
    torch.testing.assert_close(dense(narrow), dense(again))


def dense(layer: Any) -> Tensor:
    """The weight of a layer, float or quantized."""
    value = layer.weight() if callable(layer.weight) else layer.weight
    return value.dequantize() if value.is_quantized else value.detach()


@feature("activation checkpointing, both kinds: the same tensors as without")
def activation_checkpointing(case: Case) -> None:
    class Again(Network):
        reentrant: bool | None = None

        def forward(self, images: Tensor) -> Tensor:
            hidden = self.norm(self.conv(images))
            if self.reentrant is None:
                return self.rest(hidden)
            logits: Tensor = checkpoint(self.rest, hidden, use_reentrant=self.reentrant)  # type: ignore[assignment]
            return logits

        def rest(self, hidden: Tensor) -> Tensor:
            return self.head(torch.relu(self.deep(self.pool(self.relu(hidden)).flatten(1))))

        def __init__(self) -> None:
            super().__init__()
            self.deep = nn.Linear(256, 256)

    assert_same_fits(
        case, [lambda reentrant=kind: Digits(again(Again, reentrant)) for kind in (None, False, True)]
    )


@feature("two passes a step, evaluation in between: the same tensors as without")
def several_passes(case: Case) -> None:
    class Twice(Digits):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            loss = self.loss(batch)
            # Batch norm would learn from the second pass, with or without a compression.
            learning = [part for part in self.modules() if isinstance(part, nn.BatchNorm2d) and part.training]
            for part in learning:
                part.eval()
            self.loss([batch[0].flip(0) * 3, batch[1]]).backward()
            self.model.eval()
            with torch.no_grad():
                self.loss(batch)
            self.model.train()
            self.zero_grad()
            return loss

    assert_same_fits(case, [Digits, Twice])


def again(kind: type[nn.Module], reentrant: bool | None) -> Callable[[], nn.Module]:
    """Builds a network that computes its end again in the backward pass, or does not."""

    def build() -> nn.Module:
        network = kind()
        network.reentrant = reentrant  # type: ignore[assignment]
        return network

    return build


@torch.no_grad()
def outputs_are_near(first: nn.Module, others: list[nn.Module]) -> bool:
    """Whether modules compute the same but for what a few weights rounded to the other side change."""
    images = digits(1400, 1500).tensors[0]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
        expected, *found = (module(images) for module in (first, *others))
    allowed = 1e-2 * float(expected.std())
    return all(float((expected - outputs).abs().mean()) <= allowed for outputs in found)


def assert_same_fits(case: Case, modules: list[Callable[[], L.LightningModule]]) -> None:
    """Fit each module from the same start, and assert that all tensors are those of the first fit."""
    found = []
    for build in modules:
        fresh = Case(case.method, case.folder)
        with warnings.catch_warnings():
            # What is computed again under no_grad, where nothing has a gradient, is told of by torch.
            warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
            fresh.fit(module=build())
            fresh.check()
        finalized = fresh.compression.finalized
        assert finalized is not None
        found.append(finalized)
    if not case.method.startswith("learnable"):
        assert all(equal(found[0].state_dict(), other.state_dict()) for other in found[1:])
        return
    # Autograd sums the many parts of a learned scale's gradient in the order in which they come: the last bits differ,
    # and weights that lie between two integers fall to the other.
    assert outputs_are_near(found[0], found[1:])


@feature("a module built in `configure_model`")
def configure_model(case: Case) -> None:
    class Late(Digits):
        def __init__(self) -> None:
            super().__init__()
            self.model = None

        def configure_model(self) -> None:
            if self.model is None:
                self.model = Network()

    case.fit(module=Late())
    case.check()
