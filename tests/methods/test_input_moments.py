"""Moments of what comes into layers, summed up batch by batch."""

from __future__ import annotations

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightning_compress.methods.mechanism.calibrated import InputMoments


@settings(max_examples=20, deadline=None)
@given(
    groups=st.integers(1, 3),
    columns=st.sampled_from([1, 7, 512, 513, 1100]),
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    looks=st.booleans(),
    seed=st.integers(0, 1000),
)
@example(groups=1, columns=513, counts=[1], looks=False, seed=0)
def test_moments_are_those_of_all_rows_together_whether_or_not_they_are_looked_at_before_all_have_come(
    groups: int, columns: int, counts: list[int], looks: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(groups, count, columns, generator=generator) for count in counts]
    moments = InputMoments(with_second=True)
    for part in parts:
        moments.add(part)
        if looks:
            assert moments.second.shape == (groups, columns, columns)
    rows = torch.cat(parts, dim=1).double()
    torch.testing.assert_close(moments.first, rows.mean(dim=1).float(), rtol=1e-4, atol=1e-5)
    expected = rows.mT @ rows / rows.shape[1]
    torch.testing.assert_close(moments.second, expected.float(), rtol=1e-4, atol=1e-4)
