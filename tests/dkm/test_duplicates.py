"""Repeated centroids are spread, and nothing else is moved."""

from __future__ import annotations

import torch

from lightning_compress.dkm.duplicates import spread_duplicates


def test_the_last_of_repeated_centroids_moves_halfway_to_the_next():
    palette = torch.tensor([-0.05, 0.0, 0.0, 0.05]).view(1, 4, 1)
    spread = spread_duplicates(palette, first_free=0, tolerance=0.0)
    torch.testing.assert_close(spread[0, :, 0], torch.tensor([-0.05, 0.0, 0.025, 0.05]))


def test_distinct_centroids_are_only_sorted():
    palette = torch.tensor([[0.1, -0.2, 0.05], [3.0, 2.0, 1.0]]).unsqueeze(-1)
    spread = spread_duplicates(palette, first_free=0, tolerance=0.0)
    assert torch.equal(spread, palette.sort(dim=1).values)


def test_a_zero_in_front_stays_there():
    palette = torch.tensor([0.0, 0.3, -0.1, -0.1]).view(1, 4, 1)
    spread = spread_duplicates(palette, first_free=1, tolerance=0.0)
    torch.testing.assert_close(spread[0, :, 0], torch.tensor([0.0, -0.1, 0.1, 0.3]))


def test_as_many_repetitions_as_are_tolerated_stay():
    palette = torch.tensor([-0.05, 0.0, 0.0, 0.05]).view(1, 4, 1)
    assert torch.equal(spread_duplicates(palette, first_free=0, tolerance=0.5), palette)


def test_repeated_vectors_move_halfway_to_another_and_the_first_stays():
    palette = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]).unsqueeze(0)
    spread = spread_duplicates(palette, first_free=1, tolerance=0.0)
    assert torch.equal(spread[0], torch.tensor([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0], [0.5, 0.5]]))
    assert torch.equal(spread_duplicates(palette, first_free=1, tolerance=0.5), palette)
