from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from lightning_compress.errors import ConfigurationError
from lightning_compress.recipes.data.masks import DigitsMasksDataModule
from lightning_compress.recipes.data.masks.dataset import evaluation_transform
from lightning_compress.recipes.data.masks.digits_on_photographs import DigitMaskScenes


def scenes(split: str = "train", *, side: int = 96, seed: int = 0, count: int = 60) -> DigitMaskScenes:
    return DigitMaskScenes(split, count, side=side, seed=seed, transform=evaluation_transform(side))


def test_the_same_seed_draws_the_same_scenes_in_any_order() -> None:
    one, other = scenes(), scenes()
    backwards = {index: other.load(index) for index in reversed(range(8))}
    for index in range(8):
        pixels, mask = one.load(index)
        assert torch.equal(pixels, backwards[index][0])
        assert np.array_equal(mask, backwards[index][1])


def test_worker_processes_draw_the_same_scenes() -> None:
    def first(workers: int) -> list[torch.Tensor]:
        data = DigitsMasksDataModule(image_size=64, batch_size=4, val_images=8, num_workers=workers)
        return next(iter(data.val_dataloader()))

    assert all(torch.equal(one, other) for one, other in zip(first(0), first(2), strict=True))


@pytest.mark.parametrize("changed", [{"split": "val"}, {"seed": 1}])
def test_another_split_or_seed_draws_others(changed: dict) -> None:
    assert not torch.equal(scenes().load(0)[0], scenes(**changed).load(0)[0])


def test_all_ten_digits_and_the_background_are_seen() -> None:
    drawn = scenes(side=64, count=120)
    shares = np.bincount(np.concatenate([drawn.load(index)[1].ravel() for index in range(120)]), minlength=11)
    shares = shares / shares.sum()
    assert len(shares) == 11
    assert shares[0] > 0.7
    assert shares[1:].min() > 0.002


def test_the_mask_is_the_ink_that_is_seen() -> None:
    """Where a scene is as its background was, nothing is of a digit's class."""
    drawn = scenes()
    for index in range(20):
        background = drawn._background(np.random.default_rng((0, 0, index)))
        pixels, mask = drawn.load(index)
        changed = (pixels.numpy().transpose(1, 2, 0) != background).any(axis=2)
        assert mask.any()
        assert not mask[~changed].any()


def test_some_digits_are_hidden_in_part() -> None:
    """3 or 4 digits are written; where two are seen upon each other, or one is cut, its ink is in several pieces."""
    drawn = scenes()
    seen = [len(set(drawn.load(index)[1].ravel()) - {0}) for index in range(60)]
    assert set(seen) <= {1, 2, 3, 4}
    assert {2, 3, 4} <= set(seen)
    pieces = [label(drawn.load(index)[1] > 0)[1] for index in range(60)]
    assert max(pieces) > 4


def test_batches_are_images_and_classes_of_pixels() -> None:
    data = DigitsMasksDataModule(image_size=64, batch_size=4, train_images=10, val_images=6)
    images, masks = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 64, 64)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert masks.shape == (4, 64, 64)
    assert masks.dtype == torch.int64
    assert type(masks) is torch.Tensor
    assert masks.unique().numel() > 1
    assert len(data.train_dataloader()) == 2
    assert data.class_names == ["background", *"0123456789"]


@pytest.mark.parametrize("setting", [{"train_images": 0}, {"val_images": -1}, {"seed": -1}])
def test_counts_and_seeds_that_draw_nothing_are_refused(setting: dict) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(ConfigurationError, match=rf"data\.{name}={value}"):
        DigitsMasksDataModule(**setting)
