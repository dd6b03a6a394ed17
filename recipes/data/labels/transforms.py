"""From any image to a training sample of a classifier: RGB, float32 in [0, 1], one size."""

from __future__ import annotations

from typing import Any

import torch
from torchvision.transforms import v2

from ...ranges import require_between


def resized(image_size: int, *, augment: list[Any] | None = None) -> Any:
    """For small pictures: resized as they are, after `augment`."""
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RGB(),
            *(augment or []),
            v2.Resize((image_size, image_size), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.ToPureTensor(),
        ]
    )


def photo_training(image_size: int, *, smallest_crop: float, flip: bool) -> Any:
    """For photographs in training: a random crop of at least `smallest_crop` of the area, maybe mirrored."""
    require_between("data.smallest_crop", smallest_crop, 0, 1, above=True)
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RGB(),
            v2.RandomResizedCrop(image_size, scale=(smallest_crop, 1.0), antialias=True),
            v2.RandomHorizontalFlip(0.5 if flip else 0.0),
            v2.ToDtype(torch.float32, scale=True),
            v2.ToPureTensor(),
        ]
    )


def photo_evaluation(image_size: int) -> Any:
    """For photographs in evaluation: the centre, 87.5% of the shorter side, as is usual for ImageNet."""
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RGB(),
            v2.Resize(round(image_size / 0.875), antialias=True),
            v2.CenterCrop(image_size),
            v2.ToDtype(torch.float32, scale=True),
            v2.ToPureTensor(),
        ]
    )
