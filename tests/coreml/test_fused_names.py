"""Weights keep their names where a batch norm is fused into them."""

from __future__ import annotations

import coremltools as ct
import pytest
import torch
from torch import nn

from lightning_compress import CoreMLExport
from lightning_compress.package import inspect
from lightning_compress.runtime import load


class Shared(nn.Module):
    """One convolution that two batch norms follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        nn.init.constant_(self.norms[0].weight, 2.0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        for norm in self.norms:
            image = norm(self.layer(image)).relu()
        return image


def weights(module: nn.Module, path, *shape: int) -> list[str]:
    package = CoreMLExport(path / "net.mlpackage").run(module.eval(), torch.randn(1, *shape)).path
    return [layer.name for layer in inspect(package).layers if len(layer.shape) > 1]


def test_a_convolution_before_a_batch_norm_keeps_its_name(tmp_path):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 8, 3), nn.BatchNorm2d(8)
    )
    assert weights(network, tmp_path, 3, 16, 16) == ["0.weight", "3.weight"]
    inputs = torch.rand(1, 3, 16, 16)
    (output,) = load(tmp_path / "net.mlpackage", precision="float32")(inputs).values()
    assert torch.allclose(output, network(inputs), atol=2e-3)


def test_a_weight_that_becomes_two_has_two_names(tmp_path):
    names = weights(Shared(), tmp_path, 8, 16, 16)
    assert names[0] == "layer.weight"
    assert len(set(names)) == 2


@pytest.mark.filterwarnings("ignore")
def test_coremltools_still_loses_the_name():
    """Once this fails, `lightning_compress/coreml/fused_names.py` is no longer needed."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    traced = torch.jit.trace(network, torch.rand(1, 3, 16, 16))
    model = ct.convert(traced, inputs=[ct.TensorType(shape=(1, 3, 16, 16))], skip_model_load=True)
    assert [layer.name for layer in inspect(model).layers if len(layer.shape) > 1] == ["conv_0.weight"]
