"""What was finalized is compared with what was trained, and the first layer that differs is named."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lightning_compress.errors import VerificationError
from lightning_compress.methods import DKMPalettization, PreparedModule
from lightning_compress.methods.mechanism.agreement import Call, require_agreement
from lightning_compress.methods.mechanism.copies import copy_module


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


@pytest.fixture
def call() -> Call:
    return Call((torch.randn(3, 8),), {})


def test_a_module_agrees_with_its_finalized_copy(network, call):
    prepared = PreparedModule(network, [DKMPalettization(n_bits=2, weight_threshold=0)])
    prepared.start_training()
    require_agreement(copy_module(prepared.module), prepared.finalize(), [call])


@pytest.mark.parametrize("layer", [0, 2, 4])
def test_the_first_layer_that_differs_is_named(network, call, layer):
    other = copy.deepcopy(network)
    with torch.no_grad():
        other[layer].weight.add_(0.1)
    with pytest.raises(VerificationError, match=rf"first layer that differs is '{layer}'"):
        require_agreement(network, other, [call])


def test_rounding_is_no_difference(network, call):
    other = copy.deepcopy(network)
    with torch.no_grad():
        other[2].weight.mul_(1 + 1e-6)
    require_agreement(network, other, [call])


def test_outputs_of_another_number_or_shape_differ(network, call):
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return network(x), network(x)

    with pytest.raises(VerificationError, match="the module itself"):
        require_agreement(network, Twice(), [call])
    with pytest.raises(VerificationError):
        require_agreement(network, network[:4], [call])


def test_inputs_by_name_and_outputs_in_dictionaries_are_compared(network):
    class Named(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *, images: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(images), "labels": self.inner(images).argmax(1)}

    other = copy.deepcopy(network)
    with torch.no_grad():
        other[4].bias.add_(1)
    call = Call((), {"images": torch.randn(2, 8)})
    require_agreement(Named(network), Named(copy.deepcopy(network)), [call])
    with pytest.raises(VerificationError, match="'inner.4'"):
        require_agreement(Named(network), Named(other), [call])
