from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_compress.coreml import CoreMLExport
from lightning_compress.errors import ConfigurationError
from lightning_compress.package.inspection import inspect
from lightning_compress.runtime import load
from lightning_compress.tasks import Classification, Task


def test_names_of_classes_make_a_classifier_with_labels_and_without_them_the_output_has_a_name(tmp_path):
    task, network = Classification(), nn.Linear(8, 3)
    for classes, outputs in ((["a", "b", "c"], {"classLabel", "classLabel_probs"}), ([], {"probabilities"})):
        export = task.interface(CoreMLExport(tmp_path / "net.mlpackage"), classes)
        report = inspect(export.run(network, torch.rand(1, 8)).path)
        assert {feature.name for feature in report.outputs} == outputs
    export = task.interface(CoreMLExport(tmp_path / "net.mlpackage"), ["a", "b", "c"])
    outputs = task.run(load(export.run(network, torch.rand(1, 8)).path), [torch.rand(4, 8)])
    (scores,) = task.restored(outputs, ())
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(4), atol=1e-2, rtol=0)


def test_probabilities_are_left_as_they_are_where_the_network_returns_them(tmp_path):
    network = nn.Sequential(nn.Linear(8, 3), nn.Softmax(dim=-1))
    task = Classification(softmax=False)
    export = task.interface(CoreMLExport(tmp_path / "net.mlpackage", compute_precision="float32"), [])
    values = torch.rand(2, 8)
    (found,) = task.restored(task.run(load(export.run(network, torch.rand(1, 8)).path), [values]), ())
    torch.testing.assert_close(found, network(values), atol=1e-5, rtol=1e-5)


def test_labels_of_the_task_come_before_those_of_the_data():
    class Data:
        class_names = ("cat", "dog")

    assert Classification().names_of_classes(Data()) == ["cat", "dog"]
    assert Classification(labels=["Katze", "Hund"]).names_of_classes(Data()) == ["Katze", "Hund"]
    assert Task().names_of_classes(object()) == []


def test_a_network_of_several_outputs_is_no_classifier(tmp_path):
    class Two(nn.Module):
        def forward(self, values):
            return values, values + 1

    export = Classification().interface(CoreMLExport(tmp_path / "net.mlpackage"), [])
    with pytest.raises(ConfigurationError, match="task=classification needs a network with one output"):
        export.run(Two(), torch.rand(1, 8))


@pytest.mark.parametrize("labels", ["cat", 5])
def test_labels_are_a_list(labels):
    with pytest.raises(ConfigurationError, match="labels"):
        Classification(labels=labels)


def test_answers_are_as_far_apart_as_their_distributions_whatever_logits_have_in_common():
    logits = torch.tensor([[2.0, 1.0, -4.0], [40.0, 1.0, -4.0]])
    (found,) = Classification().comparable([logits])
    torch.testing.assert_close(found, logits.softmax(dim=-1).sqrt())
    (same,) = Classification().comparable([logits + 7])
    torch.testing.assert_close(same, found)
    (given,) = Classification(softmax=False).comparable([logits.softmax(dim=-1)])
    torch.testing.assert_close(given, found, rtol=0, atol=1e-6)


def test_a_probability_of_nothing_has_a_finite_derivative():
    probabilities = torch.tensor([[1.0, 0.0]], requires_grad=True)
    (found,) = Classification(softmax=False).comparable([probabilities])
    (gradient,) = torch.autograd.grad(found.sum(), probabilities)
    assert gradient.isfinite().all()
