"""Palettes of vectors in a module: what they do not fit is refused or becomes scalars, and the table says so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_compress import DKMPalettization
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.preparation import PreparedModule


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(32, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(x).relu())


def prepared(**keys: object) -> PreparedModule:
    return PreparedModule(Classifier(), [DKMPalettization(cluster_dim=4, weight_threshold=500, **keys)])


def labels(module: PreparedModule) -> dict[str, str]:
    return {technique.tensor_name: technique.label for technique in module.techniques()}


def test_a_head_of_ten_classes_is_refused_with_both_remedies():
    with pytest.raises(
        ConfigurationError, match=r"10 output channels.*head\.weight.*indivisible='scalars'.*exclude it"
    ):
        prepared(n_bits=4)


@pytest.mark.parametrize(("bits", "scalars"), [(4, "1 bit"), (6, "2 bits"), (8, "2 bits")])
def test_it_may_become_scalars_of_as_many_bits_a_weight_and_the_table_says_so(bits, scalars):
    found = labels(prepared(n_bits=bits, indivisible="scalars"))
    assert f"palette of {scalars} (not of vectors of 4, which do not fit)" in found["head.weight"]
    # 256 vectors of 4 are half of the trunk's elements, and fit.
    assert f"palette of {bits} bits, vectors of 4" in found["trunk.weight"]


def test_a_weight_of_fewer_vectors_than_entries_becomes_scalars_too():
    module = PreparedModule(
        nn.Sequential(nn.Linear(16, 16)),
        [DKMPalettization(cluster_dim=4, n_bits=8, weight_threshold=0, indivisible="scalars")],
    )
    assert "not of vectors of 4" in labels(module)["0.weight"]


@pytest.mark.parametrize("estimator", ["dkm", "straight_through"])
def test_what_is_trained_is_what_is_finalized(estimator):
    module = prepared(n_bits=4, indivisible="scalars", estimator=estimator)
    optimizer = torch.optim.SGD(module.module.parameters(), lr=0.1)
    module.start_training()
    for _ in range(5):
        optimizer.zero_grad()
        module.module(torch.randn(8, 32)).square().mean().backward()
        optimizer.step()
        module.step()
    finalized = module.finalize()
    vectors = finalized.trunk.weight.detach().view(16, 4, 32).transpose(1, 2).reshape(-1, 4)
    assert 1 < len(vectors.unique(dim=0)) <= 16
    assert 1 < finalized.head.weight.unique().numel() <= 2
    x = torch.randn(4, 32)
    module.module.eval()
    with torch.no_grad():
        torch.testing.assert_close(module.module(x), finalized(x))


def test_an_estimator_that_does_not_exist_is_refused_where_it_is_given():
    with pytest.raises(ConfigurationError, match=r"estimator.*'nearest'.*straight_through"):
        prepared(n_bits=4, estimator="nearest")
