from __future__ import annotations

import coremltools as ct
import pytest
import torch
from torch import nn

from lightning_compress.coreml import CoreMLExport
from lightning_compress.coreml.convert import Interface, convert
from lightning_compress.coreml.rewriting import prune_package, quantize_package
from lightning_compress.errors import ConfigurationError, TargetError
from lightning_compress.package.inspection import inspect


@pytest.fixture(scope="module")
def package(build_network, digit, tmp_path_factory):
    return CoreMLExport(tmp_path_factory.mktemp("float16") / "net.mlpackage").run(build_network(), digit).path


def large_layers(model):
    return [layer for layer in inspect(model).layers if layer.parameters > 2048]


def test_a_package_is_pruned_to_the_sparsity_asked_for(package):
    layers = large_layers(prune_package(package, 0.75))
    assert {layer.technique for layer in layers} == {"pruned"}
    assert [layer.sparsity for layer in layers] == pytest.approx([0.75] * len(layers), abs=0.01)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 75])
def test_a_sparsity_outside_zero_and_one_is_refused(package, sparsity):
    with pytest.raises(ConfigurationError, match=r"is not in \[0, 1\)"):
        prune_package(package, sparsity)


def test_a_package_is_quantized_with_a_scale_for_each_channel(package):
    layers = large_layers(quantize_package(package))
    assert {(layer.technique, layer.bits, layer.granularity) for layer in layers} == {
        ("quantized", 8, "per channel")
    }


def test_four_bits_need_a_package_for_ios18(package, network, digit):
    with pytest.raises(TargetError, match=r"cannot carry int4 weights; .*minimum_deployment_target='iOS18'"):
        quantize_package(package, "int4")
    layers = large_layers(quantize_package(convert(network, digit, target=ct.target.iOS18), "int4"))
    assert {layer.bits for layer in layers} == {4}


def test_an_unknown_type_is_refused(package):
    with pytest.raises(ConfigurationError, match="dtype='int3' is unknown; valid are int8, int4"):
        quantize_package(package, "int3")


class Transposing(nn.Module):
    """A classifier with a transpose, which coremltools' pass for them has failed on (coremltools #1906)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 512)
        self.last = nn.Linear(512, 10)

    def forward(self, x):
        rows = self.first(x[:, 0]).transpose(1, 2)
        return torch.softmax(self.last(torch.relu(rows).mean(dim=2)), dim=1)


@pytest.fixture(scope="module")
def classifier(digit):
    torch.manual_seed(0)
    labels = [f"digit {index}" for index in range(10)]
    return convert(
        Transposing().eval(), digit, target=ct.target.iOS16, interface=Interface(class_labels=labels)
    )


def test_a_classifier_keeps_its_labels(classifier):
    report = inspect(quantize_package(classifier))
    assert report.labels == inspect(classifier).labels
    assert "quantized" in {layer.technique for layer in report.layers}
