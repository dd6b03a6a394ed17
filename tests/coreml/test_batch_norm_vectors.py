"""Batch norms that are left in a program have a vector of factors and one of shifts, and compute what they did."""

from __future__ import annotations

from typing import Any

import coremltools as ct
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_compress.coreml.convert import convert
from lightning_compress.package.save import save_package
from lightning_compress.runtime import load

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

CHANNELS = 128


def network(seed: int = 0) -> nn.Sequential:
    """Batch norms behind no layer that they could become part of, with statistics and factors of both signs."""
    random = torch.Generator().manual_seed(seed)
    norms = [nn.BatchNorm2d(CHANNELS, eps=eps) for eps in (1e-5, 1e-3, 1e-5)]
    for norm in norms:
        norm.running_mean = torch.randn(CHANNELS, generator=random)
        norm.running_var = torch.rand(CHANNELS, generator=random) * 2 + 1e-4
        norm.weight.data = torch.randn(CHANNELS, generator=random)
        norm.bias.data = torch.randn(CHANNELS, generator=random)
    first, second, third = norms
    return nn.Sequential(first, nn.ReLU(), second, nn.Tanh(), third).eval()


def program(module: nn.Module, precision: str = "float32") -> Any:
    image = torch.zeros(1, CHANNELS, 4, 4)
    return convert(module, image, target=ct.target.iOS18, compute_precision=precision)


def norms_of(model: Any) -> list[Any]:
    (function,) = model._mil_program.functions.values()
    return list(function.find_ops(op_type="batch_norm"))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_means_and_variances_are_zeros_and_ones_that_all_share(precision):
    norms = norms_of(program(network(), precision))
    assert len(norms) == 3
    assert {norm.mean for norm in norms} == {norms[0].mean}
    assert {norm.variance for norm in norms} == {norms[0].variance}
    assert not norms[0].mean.val.any()
    assert (norms[0].variance.val == 1).all()
    assert len({norm.gamma for norm in norms} | {norm.beta for norm in norms}) == 6


def test_factors_and_shifts_keep_the_names_that_they_have_in_torch():
    names = {part.name for norm in norms_of(program(network())) for part in (norm.gamma, norm.beta)}
    assert names == {f"var_{layer}_{part}" for layer in (0, 2, 4) for part in ("weight", "bias")}


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_package_computes_the_same(precision, tmp_path):
    module = network()
    save_package(program(module, precision), tmp_path / "net.mlpackage")
    images = torch.randn(1, CHANNELS, 4, 4)
    (found,) = load(tmp_path / "net.mlpackage")(images).values()
    with torch.no_grad():
        expected = module(images)
    tolerance = 1e-5 if precision == "float32" else 4e-3
    torch.testing.assert_close(found, expected, atol=tolerance * float(expected.abs().max()), rtol=0)


class OfTwoRanks(nn.Module):
    """A batch norm over signals, and one over images of as many channels."""

    def __init__(self) -> None:
        super().__init__()
        self.of_signals, self.of_images = nn.BatchNorm1d(CHANNELS), nn.BatchNorm2d(CHANNELS)
        for norm in (self.of_signals, self.of_images):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, image: Tensor) -> Tensor:
        return self.of_signals(self.of_images(image).tanh().flatten(2)).tanh()


def test_ranks_do_not_matter(tmp_path):
    module = OfTwoRanks().eval()
    save_package(program(module), tmp_path / "net.mlpackage")
    images = torch.randn(1, CHANNELS, 4, 4)
    (found,) = load(tmp_path / "net.mlpackage")(images).values()
    torch.testing.assert_close(found, module(images).detach(), atol=1e-5, rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from([1e-12, 1e-3, 1.0, 1e4]),
    st.sampled_from([0.0, 1.0, 100.0]),
    st.sampled_from([0.0, 1e-3, 1.0]),
)
def test_whatever_the_statistics_are(seed, variance, mean, factor):
    module = network(seed)
    with torch.no_grad():
        for norm in (module[0], module[2], module[4]):
            norm.running_var.mul_(variance)
            norm.running_mean.mul_(mean)
            norm.weight.mul_(factor)
        images = module[0].running_mean[:, None, None] + torch.randn(1, CHANNELS, 4, 4) * variance**0.5
        expected = module(images)
    for norm, moved in zip(norms_of(program(module)), (module[0], module[2], module[4]), strict=True):
        values = torch.randn(CHANNELS, 8).double() + moved.running_mean[:, None].double()
        scale = torch.from_numpy(norm.gamma.val).double() / (1 + float(norm.epsilon.val)) ** 0.5
        found = values * scale[:, None] + torch.from_numpy(norm.beta.val).double()[:, None]
        exact = moved.double()(values[None, :, :, None])[0, :, :, 0].detach()
        moved.float()
        bound = 1e-6 * float(1 + (values.abs() * scale.abs()[:, None]).max())
        torch.testing.assert_close(found, exact, atol=bound, rtol=1e-5)
    assert torch.isfinite(expected).all()
