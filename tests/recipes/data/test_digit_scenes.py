from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from lightning_compress.errors import ConfigurationError
from lightning_compress.recipes.data.boxes import DigitsDetectionDataModule
from lightning_compress.recipes.data.boxes.dataset import evaluation_transform
from lightning_compress.recipes.data.boxes.digits_on_photographs import DigitScenes


def scenes(split: str = "train", *, side: int = 160, seed: int = 0, count: int = 40) -> DigitScenes:
    return DigitScenes(split, count, side=side, seed=seed, transform=evaluation_transform(side))


def test_the_same_seed_draws_the_same_scenes_in_any_order() -> None:
    one, other = scenes(), scenes()
    backwards = {index: other.load(index) for index in reversed(range(10))}
    for index in range(10):
        pixels, objects = one.load(index)
        assert torch.equal(pixels, backwards[index][0])
        assert np.array_equal(objects.boxes, backwards[index][1].boxes)


def test_the_scenes_are_the_same_on_every_machine() -> None:
    drawn = scenes(seed=7)
    boxes = np.concatenate([drawn.load(index)[1].boxes for index in range(20)]).astype(np.int64)
    assert hashlib.sha256(boxes.tobytes()).hexdigest()[:16] == "77f954427397a46b"


def test_worker_processes_draw_the_same_scenes() -> None:
    def first(workers: int) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
        data = DigitsDetectionDataModule(image_size=64, batch_size=4, val_images=8, num_workers=workers)
        return next(iter(data.val_dataloader()))

    images, targets = first(0)
    other_images, other_targets = first(2)
    assert torch.equal(images, other_images)
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(targets, other_targets, strict=True))


@pytest.mark.parametrize("changed", [{"split": "val"}, {"seed": 1}])
def test_another_split_or_seed_draws_others(changed: dict) -> None:
    assert not torch.equal(scenes().load(0)[0], scenes(**changed).load(0)[0])


@pytest.mark.parametrize(("side", "smallest", "largest"), [(160, 20, 64), (80, 10, 32), (320, 40, 128)])
def test_a_scene_has_one_to_three_digits_of_the_right_size_apart(
    side: int, smallest: int, largest: int
) -> None:
    drawn = scenes(side=side)
    counts = set()
    for index in range(len(drawn)):
        pixels, objects = drawn.load(index)
        assert pixels.shape == (3, side, side)
        assert pixels.dtype == torch.uint8
        boxes = torch.from_numpy(objects.boxes)
        counts.add(len(boxes))
        assert (boxes >= 0).all()
        assert (boxes <= side).all()
        heights = boxes[:, 3] - boxes[:, 1]
        assert smallest <= heights.min()
        assert heights.max() <= largest
        overlaps = box_iou(boxes, boxes).fill_diagonal_(0)
        assert overlaps.max() <= 0.05
        assert objects.labels.tolist() == [1] * len(boxes)
    assert counts == {1, 2, 3}


def test_boxes_are_exact() -> None:
    """Beside its boxes a scene is its background, whose neighbours in the photograph it shares; inside it differs."""
    drawn = scenes()
    random = np.random.default_rng((0, 0, 3))
    background = drawn.backgrounds.crop(random, 160)
    pixels, objects = drawn.load(3)
    changed = (pixels.numpy().transpose(1, 2, 0) != background).any(axis=2)
    covered = np.zeros_like(changed)
    for left, top, right, bottom in objects.boxes.astype(int):
        covered[top:bottom, left:right] = True
        inside = changed[top:bottom, left:right]
        for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
            assert edge.any()
    assert not (changed & ~covered).any()


def test_batches_are_images_and_targets() -> None:
    data = DigitsDetectionDataModule(image_size=96, batch_size=4, train_images=10, val_images=6)
    images, targets = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 96, 96)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert len(targets) == 4
    assert all(type(target["boxes"]) is torch.Tensor for target in targets)
    assert len(data.train_dataloader()) == 2
    assert data.class_names == ["digit"]


def test_no_images_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"data\.train_images=0"):
        DigitsDetectionDataModule(train_images=0)
