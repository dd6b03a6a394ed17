"""Forwards with checks, loops and containers are quantized without advice, and advice that is given is true."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_compress import DKMPalettization, LinearQuantization, MagnitudePruning
from tests.cases.fitting import int8_weights, of_shape


class Checked(nn.Module):
    """Checks the size of its input, as every model of transformers does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 64:
            raise ValueError(f"{x.shape[-1]} values where 64 are expected")
        return self.layer(x).relu()


class Residual(nn.Module):
    """Hides the check in a block of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Checked()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Looping(nn.Module):
    """Goes over a list of layers behind a check."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64)])

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 64:
            raise ValueError(f"{x.shape[-1]} values where 64 are expected")
        for layer in self.layers:
            x = layer(x).relu()
        return x


class Named(Looping):
    """The same with a dictionary of layers, and a choice by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"first": nn.Linear(64, 64), "second": nn.Linear(64, 64)})

    def forward(self, x: Tensor, *, deep: bool = True) -> Tensor:
        batch, length, width = x.shape
        x = x.view(batch * length, width)
        for name in ("first", "second")[: 2 if deep else 1]:
            x = self.layers[name](x).relu()
        return x.view(batch, length, width)


class Splitting(nn.Module):
    """Takes apart what a layer returned, by iteration and by length."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 128)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.layer(x).chunk(2, dim=-1)
        parts = [part * len(parts_of) for part, parts_of in ((first, "a"), (second, "bc"))]
        return torch.stack(parts).sum(0).relu()


@pytest.mark.parametrize("block", [Checked, Residual, Looping, Named, Splitting])
class TestBlocks:
    def test_weights_and_activations_are_quantized(self, fit, block):
        network = nn.Sequential(nn.Linear(32, 64), block(), nn.Linear(64, 32))
        outcome = fit(network, of_shape(8, 32), LinearQuantization())
        outcome.check_right(finalized=2e-2, package=5e-2)
        outcome.check_stored("quantized", bits=8)
        assert outcome.operations["quantize"] > 0

    def test_weights_are_quantized(self, fit, block):
        network = nn.Sequential(nn.Linear(32, 64), block(), nn.Linear(64, 32))
        outcome = fit(network, of_shape(8, 32), int8_weights())
        outcome.check_right()
        outcome.check_stored("quantized", bits=8)
        assert "quantize" not in outcome.operations

    def test_a_module_that_is_excluded_stays_dense(self, fit, block):
        network = nn.Sequential(nn.Linear(32, 64), block(), nn.Linear(64, 32))
        outcome = fit(network, of_shape(8, 32), int8_weights(module_name_configs={"1.*": None}))
        outcome.check_right()
        techniques = [layer.technique for layer in outcome.layers]
        assert techniques[0] == techniques[-1] == "quantized"
        assert set(techniques[1:-1]) == {"dense"}


@pytest.mark.parametrize(
    "method", [DKMPalettization(n_bits=4), MagnitudePruning(target_sparsity=0.5), LinearQuantization()]
)
def test_a_network_without_a_layer_is_refused_and_named(fit, method):
    network = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(8))
    message = fit.refusal(network, of_shape(8), method)
    assert type(method).__name__ in message


def test_weights_below_the_threshold_are_refused_with_the_key_that_takes_them(fit):
    network = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    message = fit.refusal(network, of_shape(16), DKMPalettization(n_bits=4))
    assert "weight_threshold" in message
    fit(network, of_shape(16), DKMPalettization(n_bits=4, weight_threshold=0)).check_stored("palettized")
