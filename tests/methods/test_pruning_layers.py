"""Pruning of every layer with weights: right zeros, right parts together, in the module and in what is finalized."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_compress import DKMPalettization, MagnitudePruning
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods import PreparedModule
from lightning_compress.methods.magnitude_masks import Granularity, magnitude_mask, ratio_mask
from lightning_compress.methods.mechanism.schedule import FitLength


class Conv1D(nn.Module):
    """GPT-2's linear layer, as transformers writes it: inputs along the first axis of its weight."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.nx = nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, values.flatten(0, -2), self.weight).view(*values.shape[:-1], self.nf)


class Tied(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(tokens))


def pruned(network, *others, **keys):
    prepared = PreparedModule(network, [MagnitudePruning(**keys), *others])
    prepared.resolve_schedule(FitLength(4))
    prepared.start_training()
    prepared.step()
    return prepared


def share(tensor):
    return float((tensor == 0).float().mean())


TRANSPOSED = {
    "ConvTranspose1d": (nn.ConvTranspose1d(8, 6, 3), (2, 8, 5)),
    "ConvTranspose2d": (nn.ConvTranspose2d(8, 6, 3), (2, 8, 5, 5)),
    "ConvTranspose3d": (nn.ConvTranspose3d(8, 6, 3), (2, 8, 3, 3, 3)),
    "Conv1D": (Conv1D(6, 8), (2, 3, 8)),
}


@pytest.fixture(params=TRANSPOSED)
def transposed(request):
    torch.manual_seed(0)
    layer, shape = TRANSPOSED[request.param]
    return nn.Sequential(layer.__class__(*arguments(layer))), shape


def arguments(layer):
    return (layer.nf, layer.nx) if isinstance(layer, Conv1D) else (8, 6, 3)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"granularity": "per_channel"},
        {"granularity": "per_kernel"},
        {"block_size": 3},
        {"n_m_ratio": [1, 3], "dim": 0},
        {"n_m_ratio": [2, 4], "dim": 1},
    ],
)
def test_layers_with_output_channels_second_prune_like_those_with_them_first(transposed, keys):
    network, shape = transposed
    weight = network[0].weight.detach().clone()
    first = weight.transpose(0, 1)
    prepared = pruned(network, **keys)
    axes = {"per_channel": 1, "per_kernel": 2}.get(keys.get("granularity"))
    if "n_m_ratio" in keys:
        expected = ratio_mask(first, *keys["n_m_ratio"], along_input=keys["dim"] == 1)
    else:
        expected = magnitude_mask(first, 0.5, Granularity(axes, keys.get("block_size", 1)))
    (mask,) = prepared.techniques()
    assert torch.equal(mask.mask.bool(), expected.transpose(0, 1))
    inputs = torch.randn(shape)
    torch.testing.assert_close(prepared.finalize()(inputs), network(inputs), rtol=0, atol=0)


def test_every_projection_of_attention_is_pruned():
    for keys in ({}, {"kdim": 8, "vdim": 8}):
        attention = nn.MultiheadAttention(16, 2, batch_first=True, **keys)
        prepared = pruned(attention, target_sparsity=0.75)
        query, other = torch.randn(2, 3, 16), torch.randn(2, 3, keys.get("kdim", 16))
        expected, _ = attention.eval()(query, other, other)
        finalized = prepared.finalize()
        torch.testing.assert_close(finalized(query, other, other)[0], expected)
        weights = [parameter for parameter in finalized.parameters() if parameter.dim() > 1]
        assert len(weights) == (4 if keys else 2)
        assert all(share(weight) == pytest.approx(0.75, abs=0.01) for weight in weights)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_every_weight_of_a_recurrent_layer_is_pruned(kind):
    layer = kind(8, 12, num_layers=2, bidirectional=True)
    prepared = pruned(layer, target_sparsity=0.5)
    inputs = torch.randn(5, 2, 8)
    output, _ = layer(inputs)
    output.square().sum().backward()
    original = layer.parametrizations.weight_hh_l1_reverse.original
    mask = layer.parametrizations.weight_hh_l1_reverse[0].mask.bool()
    assert original.grad[mask].abs().sum() > 0
    assert not original.grad[~mask].any()
    finalized = prepared.finalize()
    torch.testing.assert_close(finalized(inputs)[0], layer.eval()(inputs)[0])
    weights = {name: value for name, value in finalized.named_parameters() if name.startswith("weight")}
    assert len(weights) == 8
    assert all(share(weight) == pytest.approx(0.5, abs=0.02) for weight in weights.values())


def test_one_weight_of_a_recurrent_layer_can_be_named():
    layer = nn.LSTM(8, 12)
    prepared = pruned(nn.Sequential(layer), module_name_configs={"0": {"param_name": "weight_hh_l0"}})
    finalized = prepared.finalize()
    assert share(finalized[0].weight_hh_l0) == pytest.approx(0.5, abs=0.02)
    assert share(finalized[0].weight_ih_l0) == 0


def test_an_embedding_is_pruned():
    finalized = pruned(nn.Embedding(20, 8)).finalize()
    assert share(finalized.weight) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_a_tied_weight_has_one_mask_and_counts_once(allocation):
    network = Tied()
    prepared = pruned(network, allocation=allocation)
    (mask,) = prepared.techniques()
    assert network.head.weight.eq(network.embedding.weight).all()
    assert mask.mask.numel() == 160
    assert prepared.metrics()["sparsity"] == pytest.approx(0.5, abs=0.01)
    network(torch.arange(20)).square().sum().backward()
    original = network.embedding.parametrizations.weight.original
    assert original is network.head.parametrizations.weight.original
    assert not original.grad[~mask.mask.bool()].any()
    finalized = prepared.finalize()
    assert finalized.head.weight is finalized.embedding.weight
    assert share(finalized.head.weight) == pytest.approx(0.5, abs=0.01)


def test_types_that_are_not_named_stay_dense():
    network = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8))
    finalized = pruned(network, module_type_configs={"Linear": {"target_sparsity": 0.75}}).finalize()
    assert share(finalized[0].weight) == 0
    assert share(finalized[1].weight) == 0.75


def palette(**keys):
    return DKMPalettization(n_bits=2, weight_threshold=0, cluster_dim=2, **keys)


@pytest.mark.parametrize(("axis", "keys"), [(0, {}), (1, {"cluster_permute": [1, 0, 2, 3]})])
def test_joined_with_a_palette_of_vectors_whole_vectors_are_pruned(axis, keys):
    network = nn.Sequential(nn.Conv2d(8, 8, 3))
    weight = network[0].weight.detach().clone()
    prepared = pruned(network, palette(**keys), target_sparsity=0.75)
    mask = min(prepared.techniques(), key=lambda part: part.stage)
    assert mask.label == "75% zeros, 2 together"
    assert torch.equal(mask.mask.bool(), magnitude_mask(weight, 0.75, Granularity(None, 2, axis)))
    finalized = prepared.finalize()[0].weight
    assert share(finalized) == pytest.approx(0.75, abs=0.01)
    vectors = finalized.movedim(axis, -1).reshape(-1, 2)
    assert torch.equal((vectors == 0).any(1), (vectors == 0).all(1))
    assert len(vectors.unique(dim=0)) <= 4


@pytest.mark.parametrize(
    "keys",
    [
        {"n_m_ratio": [1, 2]},
        {"granularity": "per_kernel"},
        {"granularity": "per_channel"},
        {"block_size": 3},
    ],
)
def test_parts_that_cut_vectors_are_refused(keys):
    network = nn.Sequential(nn.Conv2d(8, 9, 3), nn.Conv2d(8, 8, 3))
    message = r"'1.weight' is pruned with .*, and its palette of vectors stores 2 elements along axis 0 as one; leave"
    with pytest.raises(ConfigurationError, match=message):
        PreparedModule(network[1:], [MagnitudePruning(**keys), palette()])


def test_blocks_of_whole_vectors_stay_blocks():
    network = nn.Sequential(nn.Conv2d(8, 8, 3))
    weight = network[0].weight.detach().clone()
    prepared = pruned(network, palette(), block_size=4)
    mask = min(prepared.techniques(), key=lambda part: part.stage)
    assert torch.equal(mask.mask.bool(), magnitude_mask(weight, 0.5, Granularity(None, 4)))
