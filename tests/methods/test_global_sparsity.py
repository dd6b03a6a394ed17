"""Sparsity by importance over a whole network, held against its definition."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

from lightning_compress import DKMPalettization, LinearQuantization, MagnitudePruning
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods import PreparedModule
from lightning_compress.methods.global_sparsity import ascending_scores, shared_masks
from lightning_compress.methods.mechanism.schedule import FitLength

CONFIGURATIONS = Path(__file__).parents[2] / "conf" / "compression"

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=5)


def tensors(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator) * 10**index for index, size in enumerate(sizes)]


@given(size=st.integers(1, 60), seed=st.integers(0, 100))
def test_a_score_is_the_square_over_the_sum_of_those_no_smaller(size, seed):
    (weight,) = tensors([size], seed)
    magnitudes = weight.abs().sort().values
    expected = [float(value**2 / (magnitudes[i:] ** 2).sum()) for i, value in enumerate(magnitudes)]
    scores = ascending_scores(magnitudes)
    torch.testing.assert_close(scores, torch.tensor(expected))
    assert torch.equal(scores, scores.sort().values)
    assert float(scores[-1]) == 1.0


@given(sizes=sizes, seed=st.integers(0, 100), sparsity=st.floats(0, 0.99), density=st.floats(0, 0.5))
def test_the_share_of_zeros_is_that_of_the_whole_and_each_keeps_its_least(sizes, seed, sparsity, density):
    weights = tensors(sizes, seed)
    masks = shared_masks(weights, [sparsity] * len(weights), [density] * len(weights))
    wanted = round(sum(sparsity * size for size in sizes))
    possible = sum(size - max(math.ceil(density * size), 1) for size in sizes)
    dropped = sum(int((~mask).sum()) for mask in masks)
    assert dropped == min(wanted, possible)
    for weight, mask in zip(weights, masks, strict=True):
        assert int(mask.sum()) >= max(density * weight.numel(), 1)
        if mask.any() and not mask.all():
            assert weight[mask].abs().min() > weight[~mask].abs().max()


@given(sizes=sizes, seed=st.integers(0, 100), scale=st.sampled_from([0.25, 4.0, 1024.0]))
def test_the_scale_of_a_layer_means_nothing(sizes, seed, scale):
    weights = tensors(sizes, seed)
    scaled = [weights[0] * scale, *weights[1:]]
    arguments = [0.5] * len(sizes), [0.0] * len(sizes)
    for mask, other in zip(shared_masks(weights, *arguments), shared_masks(scaled, *arguments), strict=True):
        assert torch.equal(mask, other)


def test_one_threshold_separates_the_scores_of_all_tensors():
    weights = tensors([50, 500, 5000], 0)
    masks = shared_masks(weights, [0.8] * 3, [0.0] * 3)
    kept, dropped = [], []
    for weight, mask in zip(weights, masks, strict=True):
        scores = ascending_scores(weight.abs().sort().values)
        number = int((~mask).sum())
        dropped.append(scores[:number].max())
        kept.append(scores[number:].min())
    assert max(dropped) < min(kept)
    shares = [float(mask.float().mean()) for mask in masks]
    assert shares == sorted(shares, reverse=True), "small tensors keep more"


def test_what_is_zero_goes_first():
    weight = torch.tensor([0.0, 0.0, 0.0, 1.0])
    other = torch.tensor([1.0, 2.0, 3.0, 4.0])
    masks = shared_masks([weight, other], [0.375] * 2, [0.0] * 2)  # three of eight
    assert [mask.tolist() for mask in masks] == [[False, False, False, True], [True] * 4]
    assert all(mask.all() for mask in shared_masks([weight, other], [0.0] * 2, [0.0] * 2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_masks_serve_every_dtype(dtype):
    weights = [weight.to(dtype) for weight in tensors([100, 3000], 0)]
    masks = shared_masks(weights, [0.75] * 2, [0.05] * 2)
    assert 1 - sum(int(mask.sum()) for mask in masks) / 3100 == pytest.approx(0.75, abs=0.02)


def prepared_globally(network, *others, **keys):
    prepared = PreparedModule(network, [MagnitudePruning(allocation="global", **keys), *others])
    prepared.resolve_schedule(FitLength(10))
    prepared.start_training()
    return prepared


def test_a_fit_reaches_the_target_over_all_layers_and_keeps_the_small_ones(digit_network):
    prepared = prepared_globally(
        digit_network, target_sparsity=0.75, scheduler={"update_steps": [1, 4, 8]}, min_density=0.1
    )
    levels = []
    for _ in range(10):
        prepared.step()
        levels.append(prepared.metrics()["sparsity"])
    assert levels == sorted(levels)
    assert levels[6] < levels[7] == pytest.approx(0.75, abs=1e-4)
    first, _, head = (mask.mask.float().mean() for mask in prepared.techniques())
    assert first > head > 0.1
    assert prepared.unfinished() == []
    finalized = prepared.finalize()
    zeros = [part.weight == 0 for part in finalized.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    share = sum(int(zero.sum()) for zero in zeros) / sum(zero.numel() for zero in zeros)
    assert share == pytest.approx(0.75, abs=1e-4)


def test_layers_pruned_on_their_own_stay_out_of_the_threshold(digit_network):
    """Those excluded have no mask, and those of another allocation have their own."""
    plain = copy.deepcopy(digit_network)
    prepared = PreparedModule(
        digit_network,
        [
            MagnitudePruning(
                allocation="global",
                target_sparsity=0.5,
                module_name_configs={"head": {"target_sparsity": 0.9}, "features.0": None},
            )
        ],
    )
    prepared.resolve_schedule(FitLength(10))
    prepared.start_training()
    prepared.step()
    middle, head = (float(1 - mask.mask.float().mean()) for mask in prepared.techniques())
    assert middle == pytest.approx(0.5, abs=1e-3)
    assert head == pytest.approx(0.9, abs=1e-3)
    assert torch.equal(digit_network.features[0].weight, plain.features[0].weight)


def test_it_goes_with_integers_and_palettes_of_scalars(digit_network):
    for other in (
        LinearQuantization(activation_dtype="float32"),
        DKMPalettization(n_bits=4, weight_threshold=0),
    ):
        prepared = prepared_globally(copy.deepcopy(digit_network), other, target_sparsity=0.75)
        prepared.step()
        assert prepared.metrics()["sparsity"] == pytest.approx(0.75, abs=1e-3)


def test_it_refuses_palettes_of_vectors(digit_network):
    palette = DKMPalettization(n_bits=4, cluster_dim=2, weight_threshold=0)
    with pytest.raises(
        ConfigurationError, match=r"allocation='global' prunes single weights of .*stores 2 as"
    ):
        PreparedModule(digit_network, [MagnitudePruning(allocation="global"), palette])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"allocation": "lamp"}, r"allocation of .* is 'lamp'; valid are \['uniform', 'global'\]"),
        ({"allocation": "global", "n_m_ratio": [1, 2]}, "with allocation='global' only None is valid"),
        ({"allocation": "global", "block_size": 2}, "with allocation='global' only 1 is valid"),
        ({"allocation": "global", "granularity": "per_channel"}, "only 'per_scalar' is valid"),
        ({"allocation": "global", "initial_sparsity": 0.2}, "only 0 is valid"),
        ({"allocation": "global", "min_density": 1.0}, r"min_density of .* is 1.0; valid is a number in \[0"),
        ({"min_density": 0.1}, "has no meaning without allocation='global'"),
    ],
)
def test_keys_that_cannot_be_are_refused(keys, message):
    with pytest.raises(ConfigurationError, match=message):
        MagnitudePruning(**keys)


def test_the_command_line_has_it_as_a_configuration(digit_network):
    configuration = OmegaConf.load(CONFIGURATIONS / "prune_75_global.yaml")
    method = instantiate(configuration.methods.pruning)
    prepared = PreparedModule(digit_network, [method])
    prepared.resolve_schedule(FitLength(10))
    prepared.start_training()
    for _ in range(6):
        prepared.step()
    assert prepared.unfinished() == []
    assert prepared.metrics()["sparsity"] == pytest.approx(0.75, abs=1e-4)
