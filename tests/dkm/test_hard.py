"""Hard assignment: each weight goes where a search through all centroids would send it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.dkm.hard import assign_hard, assign_vectors


@settings(max_examples=60, deadline=None)
@given(
    groups=st.integers(1, 3),
    clusters=st.integers(1, 9),
    preference=st.sampled_from([0.0, 1e-3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_every_weight_gets_its_nearest_centroid(groups, clusters, preference, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups, 200, generator=generator)
    palette = torch.randn(groups, clusters, generator=generator)
    distance = (weight.unsqueeze(-1) - palette.unsqueeze(-2)).square()
    distance[..., 0] -= preference
    expected = palette.gather(1, distance.argmin(dim=-1))
    assigned = assign_hard(weight, palette, zero_preference=preference)
    # A weight halfway between two centroids may go to either.
    near = (
        distance.gather(2, distance.argmin(-1, keepdim=True)).squeeze(-1)
        - distance.topk(min(2, clusters), largest=False).values[..., -1]
    ).abs() < 1e-5
    assert ((assigned == expected) | (near & (clusters > 1))).all()


@pytest.mark.parametrize("clusters", [1, 4])
def test_kept_zeros_stay_and_nothing_else_becomes_zero(clusters):
    weight = torch.randn(2, 100)
    weight[:, ::3] = 0
    palette = torch.cat((torch.zeros(2, 1), torch.randn(2, clusters - 1)), dim=1)
    assigned = assign_hard(weight, palette, keep_zeros=True)
    if clusters == 1:
        assert not assigned.any()
    else:
        assert torch.equal(assigned == 0, weight == 0)


@pytest.mark.parametrize("preference", [0.0, 0.5])
def test_vectors_get_their_nearest_centroid(preference):
    points, palette = torch.randn(2, 100, 3), torch.randn(2, 5, 3)
    distance = (points.unsqueeze(-2) - palette.unsqueeze(-3)).square().sum(-1)
    distance[..., 0] -= preference
    expected = torch.stack([group[index] for group, index in zip(palette, distance.argmin(-1), strict=True)])
    assert torch.equal(assign_vectors(points, palette, zero_preference=preference), expected)


def test_vectors_that_are_zero_throughout_stay_and_no_other_becomes_zero():
    points = torch.randn(2, 100, 2)
    points[:, ::3] = 0
    palette = torch.cat((torch.zeros(2, 1, 2), torch.randn(2, 3, 2)), dim=1)
    assigned = assign_vectors(points, palette, keep_zeros=True)
    assert torch.equal(assigned == 0, points == 0)
