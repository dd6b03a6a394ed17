"""Normalization of weights and of values beside compression."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lightning_compress import LinearQuantization
from tests.cases.fitting import METHODS, of_shape
from tests.training import outputs_of


def normed(
    norm: Callable[[nn.Module], nn.Module], kind: str, beside: bool
) -> tuple[nn.Module, tuple[int, ...]]:
    """A network with a normed layer, alone or beside a plain one, and the shape of its input."""
    if kind == "Linear":
        first, layer, shape = nn.Linear(16, 32), norm(nn.Linear(32, 32)), (16,)
    elif kind == "Conv1d":
        first, layer, shape = nn.Conv1d(8, 16, 3), norm(nn.Conv1d(16, 16, 3)), (8, 10)
    else:
        first, layer, shape = nn.Conv2d(3, 16, 3), norm(nn.Conv2d(16, 32, 3)), (3, 10, 10)
    if not beside:
        first, shape = (
            nn.Identity(),
            ((32,), (16, 10), (16, 8, 8))[["Linear", "Conv1d", "Conv2d"].index(kind)],
        )
    return nn.Sequential(first, nn.ReLU(), layer), shape


@pytest.mark.parametrize("beside", [True, False], ids=["beside a plain layer", "alone"])
@pytest.mark.parametrize("kind", ["Linear", "Conv1d", "Conv2d"])
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_normed_weight_is_compressed_after_its_norm(fit, norm, kind, beside, technique):
    network, shape = normed(norm, kind, beside)
    outcome = fit(network, of_shape(*shape), METHODS[technique]())
    outcome.check_right()
    outcome.check_stored(technique)


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_normed_layer_takes_int8_inputs(fit, norm):
    network, shape = normed(norm, "Conv2d", beside=True)
    outcome = fit(network, of_shape(*shape), LinearQuantization())
    outcome.check_right(finalized=2e-2, package=5e-2)
    outcome.check_stored("quantized", bits=8)
    assert outcome.operations["quantize"] > 0


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("beside", [True, False], ids=["beside a plain layer", "alone"])
@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
def test_a_norm_by_hooks_is_refused_with_the_one_that_works(fit, name, beside, technique):
    network, shape = normed(getattr(nn.utils, name), "Conv2d", beside)
    message = fit.refusal(network, of_shape(*shape), METHODS[technique]())
    assert f"torch.nn.utils.parametrizations.{name}" in message


class BatchNormAct2d(nn.BatchNorm2d):
    """Batch norm with the activation behind, by the function that is told of training, as in timm."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )
        return F.relu(x)


class FusedByHand(nn.Module):
    """Reads the statistics itself in evaluation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.norm(x)
        scale = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
        shift = self.norm.bias - self.norm.running_mean * scale
        return x * scale[None, :, None, None] + shift[None, :, None, None]


def zero_gamma(channels: int) -> nn.Module:
    norm = nn.BatchNorm2d(channels)
    nn.init.zeros_(norm.weight)
    return norm


def negative_gamma(channels: int) -> nn.Module:
    norm = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.weight)
    with torch.no_grad():
        norm.weight[:3] = torch.tensor([0.0, -1.0, 1e-7])
    return norm


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "plain": nn.BatchNorm2d,
    "without affine": lambda channels: nn.BatchNorm2d(channels, affine=False),
    "without running statistics": lambda channels: nn.BatchNorm2d(channels, track_running_stats=False),
    "with activation": BatchNormAct2d,
    "fused by hand": FusedByHand,
    "gamma of zero": zero_gamma,
    "negative gamma": negative_gamma,
    "groups": lambda channels: nn.GroupNorm(4, channels),
    "instances": nn.InstanceNorm2d,
    "no momentum": lambda channels: nn.BatchNorm2d(channels, momentum=None),
}


def network_of(norm: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), norm, nn.ReLU(), nn.Conv2d(16, 16, 1), nn.Flatten(), nn.Linear(576, 8)
    )


@pytest.mark.parametrize("norm", NORMS)
def test_normalization_in_evaluation_is_that_of_evaluation(fit, norm, technique):
    outcome = fit(network_of(NORMS[norm](16)), of_shape(3, 8, 8), METHODS[technique]())
    outcome.check_right()
    outcome.check_stored(technique)


@pytest.mark.parametrize("norm", NORMS)
def test_normalization_with_int8_inputs_is_that_of_evaluation(fit, norm):
    outcome = fit(network_of(NORMS[norm](16)), of_shape(3, 8, 8), LinearQuantization())
    outcome.check_right(finalized=3e-2, package=8e-2)
    outcome.check_stored("quantized", bits=8)
    assert outcome.operations["quantize"] > 0


@pytest.mark.parametrize("norm", ["plain", "with activation"])
def test_an_output_of_the_finalized_module_does_not_depend_on_its_neighbours(fit, norm):
    outcome = fit(network_of(NORMS[norm](16)), of_shape(3, 8, 8), LinearQuantization())
    finalized = outcome.compression.finalized.eval()
    one, other = torch.randn(1, 3, 8, 8), 5 * torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(finalized(one)[0], finalized(torch.cat([one, other]))[0])


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (lambda: nn.Conv1d(4, 64, 3), lambda: nn.BatchNorm1d(64), (4, 10)),
        (lambda: nn.Linear(32, 16), lambda: nn.BatchNorm1d(16), (32,)),
        (lambda: nn.Conv3d(4, 16, 3), lambda: nn.BatchNorm3d(16), (4, 6, 6, 6)),
        (lambda: nn.ConvTranspose2d(4, 16, 3), lambda: nn.BatchNorm2d(16), (4, 6, 6)),
    ],
    ids=["Conv1d", "Linear", "Conv3d", "ConvTranspose2d"],
)
def test_batch_norm_of_every_dimension_is_right_with_int8(fit, layer, norm, shape):
    outcome = fit(
        nn.Sequential(nn.Identity(), layer(), norm(), nn.ReLU()), of_shape(*shape), LinearQuantization()
    )
    outcome.check_right(finalized=3e-2, package=8e-2)
    outcome.check_stored("quantized", bits=8)


# All of the small one is chaos where nothing is learned: inputs changed by 1e-5 change its output by a third.
TIMM = {
    "efficientnet_lite0": ({"features_only": True, "out_indices": (0, 1)}, 0.15),
    "resnet18d": ({"num_classes": 10}, 0.3),
}
"""What a network of timm is made with, and by how much its package may differ."""


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_a_network_of_timm_is_right_with_int8(fit, name):
    timm = pytest.importorskip("timm")
    keys, share = TIMM[name]
    outcome = fit(timm.create_model(name, **keys), of_shape(3, 64, 64), LinearQuantization())
    # A rounding that falls to the other side in an early layer is carried on by all the later ones.
    outcome.check_right(finalized=5e-2, package=share)
    outcome.check_stored("quantized", bits=8)
    finalized = outcome.compression.finalized.eval()
    one, other = torch.randn(1, 3, 64, 64), 5 * torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        alone, beside = outputs_of(finalized(one)), outputs_of(finalized(torch.cat([one, other])))
    for output, first in zip(alone, beside, strict=True):
        torch.testing.assert_close(output[0], first[0], rtol=1e-2, atol=1e-3)
