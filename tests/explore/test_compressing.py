"""Tensors are brought into forms without training: by values, by importance, and by error feedback."""

from __future__ import annotations

import torch
from torch import nn

from lightning_compress.explore.compressing import compressed_by_data, compressed_with_feedback
from lightning_compress.explore.forms import Form
from lightning_compress.methods.mechanism.agreement import Call


class Tagger(nn.Module):
    """An embedding, which has no inputs to multiply, and layers that have."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.hidden = nn.Linear(32, 64)
        self.convolution = nn.Conv1d(64, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.hidden(self.embedding(tokens)).relu()
        return self.head(self.convolution(hidden.transpose(1, 2)).relu().mean(dim=-1))


def test_feedback_brings_outputs_nearer_and_leaves_no_form_out():
    torch.manual_seed(0)
    network = Tagger().eval()
    tokens = torch.randint(50, (256, 12))
    forms = {
        "embedding.weight": Form(bits=4),
        "hidden.weight": Form(bits=2),
        "convolution.weight": Form(bits=3),
        "head.weight": Form(integers=4),
    }
    importance = {
        name: torch.ones_like(tensor) for name, tensor in network.named_parameters() if name in forms
    }
    calls = [Call((part,), {}) for part in tokens[:192].split(64)]
    plain = compressed_by_data(network, forms, importance)
    corrected = compressed_with_feedback(network, forms, importance, calls)
    assert corrected.capabilities == plain.capabilities
    with torch.no_grad():
        expected = network(tokens[192:])
        errors = [
            (made.network(tokens[192:]) - expected).square().mean().item() for made in (plain, corrected)
        ]
    assert errors[1] < 0.8 * errors[0]
    for name, most in (("embedding", 16), ("hidden", 4), ("convolution", 8)):
        weight = corrected.network.get_submodule(name).weight
        assert 1 < weight.unique().numel() <= most


def test_forms_that_feedback_has_nothing_for_are_reached_as_without_it():
    network = Tagger().eval()
    forms = {"embedding.weight": Form(bits=2), "hidden.weight": Form(sparsity=50)}
    importance = {"embedding.weight": torch.ones(50, 32), "hidden.weight": torch.ones(64, 32)}
    found = compressed_with_feedback(network, forms, importance, [])
    assert found.network.get_submodule("embedding").weight.unique().numel() == 4
    assert (found.network.get_submodule("hidden").weight == 0).float().mean() == 0.5
