from __future__ import annotations

import coremltools as ct
import pytest
import torch
from torch import nn

from lightning_compress.coreml.convert import Interface, convert
from lightning_compress.coreml.post_training import PostTrainingForm, compress_package
from lightning_compress.package.inspection import inspect


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
    report = inspect(compress_package(classifier, [PostTrainingForm(quantize="int8")])[0].model)
    assert report.labels == inspect(classifier).labels
    assert "quantized" in {layer.technique for layer in report.layers}
