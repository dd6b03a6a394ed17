from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
import torchvision
from coremltools.optimize.torch.pruning import MagnitudePruner, MagnitudePrunerConfig

from lightning_compress import DKMPalettization
from lightning_compress.coreml import CoreMLExport
from lightning_compress.coreml.post_training import palettize_package
from lightning_compress.methods import PreparedModule
from lightning_compress.package import Capability
from lightning_compress.package.inspection import decompressed_weights, inspect


def test_the_float16_size_of_a_compressed_package_is_that_of_a_real_float16_package(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1().eval()
    exported = CoreMLExport(tmp_path / "net.mlpackage").run(network, torch.rand(1, 3, 64, 64))
    report = inspect(palettize_package(exported.path, [2])[2])
    assert report.weight_bytes < exported.weight_bytes / 7
    assert report.float16_weight_bytes == pytest.approx(exported.weight_bytes, rel=0.001)


def test_it_is_so_too_where_batch_normalization_cannot_be_folded(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1]).eval()
    float16 = CoreMLExport(tmp_path / "net.mlpackage").run(network, torch.rand(1, 3, 32, 32))
    palettized = PreparedModule(network, [DKMPalettization(n_bits=4)]).finalize(rehearses=True)
    exported = CoreMLExport(tmp_path / "palettized.mlpackage").run(
        palettized, torch.rand(1, 3, 32, 32), {Capability.LUT}
    )
    assert exported.float16_weight_bytes == pytest.approx(float16.weight_bytes, rel=0.01)
    assert exported.report.operations["batch_norm"] > 0


@pytest.mark.slow
def test_resnet50_has_the_published_layers_and_sizes(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.resnet50()
    example = torch.rand(1, 3, 224, 224)
    exported = CoreMLExport(tmp_path / "net.mlpackage").run(network, example)
    assert exported.package_bytes == pytest.approx(51.1e6, rel=0.02)
    convolutions = [
        layer for layer in exported.report.layers if layer.operation == "conv" and len(layer.shape) == 4
    ]
    (linear,) = (
        layer for layer in exported.report.layers if layer.operation == "linear" and len(layer.shape) == 2
    )
    assert len(convolutions) == 53
    assert convolutions[0].parameters == 9408
    assert linear.parameters == 2_048_000
    assert sum(layer.parameters for layer in exported.report.layers) == pytest.approx(25.6e6, rel=0.01)
    sizes = {
        bits: inspect(model).package_bytes for bits, model in palettize_package(exported.path, [2, 6]).items()
    }
    assert sizes[2] == pytest.approx(6.5e6, rel=0.02)
    assert sizes[6] == pytest.approx(19.3e6, rel=0.02)
    pruner = MagnitudePruner(
        network, MagnitudePrunerConfig.from_dict({"global_config": {"target_sparsity": 0.5}})
    )
    pruner.prepare(inplace=True)
    pruner.step()
    pruned = CoreMLExport(tmp_path / "pruned.mlpackage").run(
        pruner.finalize(inplace=True), example, {Capability.SPARSE_WEIGHTS}
    )
    assert pruned.package_bytes == pytest.approx(28.8e6, rel=0.02)


def test_the_names_of_weights_serve_to_put_them_back(network, digit, tmp_path):
    exported = CoreMLExport(tmp_path / "net.mlpackage", minimum_deployment_target="iOS16").run(network, digit)
    weights = decompressed_weights(exported.path)
    assert list(weights) == [layer.name for layer in exported.report.layers]
    matching = [values for values in weights.values() if values.shape == tuple(network[7].weight.shape)]
    np.testing.assert_array_equal(matching[0], network[7].weight.detach().numpy().astype(np.float16))
    assert exported.report.specification_version == ct.target.iOS16
