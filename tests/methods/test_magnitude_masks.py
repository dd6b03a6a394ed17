"""Masks of one tensor, held against coremltools' own and against their definition."""

from __future__ import annotations

import pytest
import torch
from coremltools.optimize.torch.pruning._utils import magnitude_ranked_mask, n_m_mask
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_compress.methods.magnitude_masks import Granularity, magnitude_mask, ratio_mask, value_at

KEPT_AXES = {"per_scalar": None, "per_kernel": 2, "per_channel": 1}
shapes = st.lists(st.integers(1, 6), min_size=2, max_size=5)


def seeded(shape: list[int], seed: int, coarse: bool = False) -> Tensor:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return weight.round() if coarse else weight


@given(
    shape=shapes,
    sparsity=st.floats(0, 1),
    seed=st.integers(0, 1000),
    coarse=st.booleans(),
    granularity=st.sampled_from(list(KEPT_AXES)),
    block_size=st.integers(1, 7),
)
def test_a_mask_is_coremltools_own(shape, sparsity, seed, coarse, granularity, block_size):
    weight = seeded(shape, seed, coarse)
    expected = magnitude_ranked_mask(weight, sparsity, block_size, granularity)
    found = magnitude_mask(weight, sparsity, Granularity(KEPT_AXES[granularity], block_size))
    assert found.dtype == torch.bool
    assert torch.equal(found, expected.expand(weight.shape))


@given(size=st.integers(1, 300), sparsity=st.floats(0, 1), seed=st.integers(0, 1000))
def test_a_mask_keeps_the_largest_and_no_fewer_than_asked(size, sparsity, seed):
    weight = seeded([size], seed)
    mask = magnitude_mask(weight, sparsity)
    assert int(mask.sum()) >= size * (1 - sparsity) - 1e-4 * size
    if mask.any() and not mask.all():
        assert weight[mask].abs().min() > weight[~mask].abs().max()


@given(size=st.integers(1, 100), seed=st.integers(0, 100), levels=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_sparser_mask_keeps_nothing_that_a_denser_one_drops(size, seed, levels):
    weight = seeded([size], seed)
    denser, sparser = (magnitude_mask(weight, level) for level in sorted(levels))
    assert not bool((sparser & ~denser).any())


@given(outputs=st.integers(1, 9), inputs=st.integers(1, 9), block=st.integers(2, 5), seed=st.integers(0, 100))
def test_blocks_along_any_axis_are_kept_or_dropped_together(outputs, inputs, block, seed):
    weight = seeded([outputs, inputs, 2], seed)
    for axis in (0, 1):
        mask = magnitude_mask(weight, 0.5, Granularity(None, block, axis))
        for part in mask.split(block, dim=axis):
            assert torch.equal(part, part.narrow(axis, 0, 1).expand_as(part))


@given(
    shape=shapes,
    ratio=st.integers(2, 6).flatmap(lambda m: st.tuples(st.integers(1, m - 1), st.just(m))),
    blocks=st.integers(1, 3),
    dim=st.sampled_from([0, 1]),
    seed=st.integers(0, 1000),
)
def test_a_mask_of_a_ratio_is_coremltools_own(shape, ratio, blocks, dim, seed):
    zeros, block = ratio
    shape[dim] = block * blocks
    weight = seeded(shape, seed)
    mask = ratio_mask(weight, zeros, block, along_input=dim == 1)
    assert torch.equal(mask, n_m_mask(weight, ratio, dim=dim).bool())
    for part in mask.split(block, dim=dim):
        assert bool(((~part).sum(dim) == zeros).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_mask_serves_every_dtype(dtype):
    weight = torch.randn(64, 32, 3).to(dtype)
    for granularity in (Granularity(), Granularity(2), Granularity(1), Granularity(None, 4)):
        assert float(magnitude_mask(weight, 0.75, granularity).float().mean()) == pytest.approx(
            0.25, abs=0.02
        )
    assert float(ratio_mask(weight, 3, 4).float().mean()) == 0.25


@given(
    values=st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=50),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    data=st.data(),
)
def test_the_value_at_a_rank_is_that_of_a_sort(values, dtype, data):
    tensor = torch.tensor(values).to(dtype)
    rank = data.draw(st.integers(0, len(values) - 1))
    assert float(value_at(tensor, rank)) == float(tensor.sort().values[rank])
