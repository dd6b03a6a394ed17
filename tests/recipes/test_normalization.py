from __future__ import annotations

import torch
from torchvision.transforms import v2

from lightning_compress.recipes.normalization import IMAGENET_MEAN, IMAGENET_STD, Normalize, example_images


def test_it_normalizes_as_torchvision_does() -> None:
    images = torch.rand(2, 3, 5, 7)
    expected = v2.functional.normalize(images, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(Normalize()(images), expected)


def test_it_adds_nothing_to_a_checkpoint() -> None:
    assert Normalize().state_dict() == {}


def test_the_example_image_is_the_same_each_time() -> None:
    assert torch.equal(example_images(32), example_images(32))
    assert example_images(48).shape == (1, 3, 48, 48)
