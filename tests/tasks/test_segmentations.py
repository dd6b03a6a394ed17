from __future__ import annotations

import matplotlib
import torch
from torch import Tensor

from lightning_compress.tasks.segmentations import draw_segmentations
from lightning_compress.tasks.segmentations.drawing import most_present


def one_class_seen(label: int) -> Tensor:
    """Two images of 20 x 30 in which a square is of a class and the rest background."""
    probabilities = torch.zeros(2, 4, 20, 30)
    probabilities[:, 0] = 0.9
    probabilities[:, :, 5:15, 5:15] = 0.1
    probabilities[:, label, 5:15, 5:15] = 0.7
    return probabilities


def test_a_picture_shows_image_heat_map_and_overlay() -> None:
    images = torch.full((2, 3, 20, 30), 0.5)
    grid = draw_segmentations(images, one_class_seen(2), ["none", "a", "b", "c"], columns=1)
    width, height = 192, 128
    assert grid.shape == (3, 2 * (height + 4) + 4, 3 * (width + 4) + 4)
    plain, heat, overlay = (grid[:, 4 : 4 + height, 4 + i * (width + 4) :][..., :width] for i in range(3))
    torch.testing.assert_close(plain, torch.full_like(plain, 0.5))
    inferno = torch.tensor(matplotlib.colormaps["inferno"](0.7)[:3], dtype=torch.float32)
    torch.testing.assert_close(heat[:, 64, 64], inferno, atol=0.02, rtol=0)
    # Beside the square, the overlay is the image.
    torch.testing.assert_close(overlay[:, 100, 170], torch.full((3,), 0.5), atol=0.01, rtol=0)
    assert (overlay[:, 64, 64] - 0.5).abs().max() > 0.2


def test_the_heat_map_is_of_the_class_that_is_seen_most() -> None:
    assert most_present(one_class_seen(3)) == [3, 3]
    nothing = torch.zeros(1, 4, 8, 8)
    nothing[:, 0], nothing[:, 2] = 0.9, 0.1
    assert most_present(nothing) == [2]
