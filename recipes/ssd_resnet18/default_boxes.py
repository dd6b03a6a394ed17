"""The default boxes of the SSD: where on an image each of the network's outputs looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_convert

from lightning_compress.counted import counted
from lightning_compress.errors import ConfigurationError

#: Aspect ratios and scales of the SSD paper for 300 pixels. A scale is a share of the image's side.
ASPECT_RATIOS: tuple[tuple[float, ...], ...] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
SCALES: tuple[float, ...] = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)

_FIRST_STRIDE = 8


def feature_map_sizes(image_size: int) -> list[int]:
    """Side of each of the six feature maps: every layer of stride 2 halves, rounding up.

    Example:
        >>> feature_map_sizes(300)
        [38, 19, 10, 5, 3, 2]
    """
    sizes = [-(-image_size // _FIRST_STRIDE)]
    for _ in ASPECT_RATIOS[1:]:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def boxes_per_cell(aspect_ratios: Sequence[Sequence[float]]) -> list[int]:
    """Number of default boxes at each cell of each feature map."""
    counts: list[int] = _generator(aspect_ratios, SCALES).num_anchors_per_location()
    return counts


def default_boxes(
    image_size: int,
    scales: Sequence[float] = SCALES,
    aspect_ratios: Sequence[Sequence[float]] = ASPECT_RATIOS,
) -> Tensor:
    """The default boxes in the order of the network's outputs.

    Args:
        image_size: height and width of the images, in pixels.
        scales: seven, one a feature map and one more for the last map's larger square; shares of the image's
            side.
        aspect_ratios: of each of the six feature maps.

    Returns:
        A x 4 float32: centre x, centre y, width and height, as shares of the image's side.

    Raises:
        ConfigurationError: another number of scales or aspect ratios than the network has feature maps.
    """
    maps = [torch.empty(1, 1, size, size) for size in feature_map_sizes(image_size)]
    images = ImageList(torch.empty(1, 1, 1, 1), [(1, 1)])
    (corners,) = _generator(aspect_ratios, scales)(images, maps)
    return cast(Tensor, box_convert(corners, "xyxy", "cxcywh"))


def default_box_grids(
    image_size: int,
    scales: Sequence[float] = SCALES,
    aspect_ratios: Sequence[Sequence[float]] = ASPECT_RATIOS,
) -> list[Tensor]:
    """The default boxes of each feature map; as `default_boxes`, but rows x columns x boxes of a cell x 4."""
    sides, counts = feature_map_sizes(image_size), boxes_per_cell(aspect_ratios)
    shapes = [(side, side, count, 4) for side, count in zip(sides, counts, strict=True)]
    boxes = default_boxes(image_size, scales, aspect_ratios)
    parts = torch.split(boxes, [side * side * count for side, _, count, _ in shapes])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _generator(aspect_ratios: Sequence[Sequence[float]], scales: Sequence[float]) -> DefaultBoxGenerator:
    if len(aspect_ratios) != len(ASPECT_RATIOS):
        raise ConfigurationError(
            f"aspect_ratios={list(aspect_ratios)!r} has {counted(len(aspect_ratios), 'entry', 'entries')}; one for "
            f"each of the {len(ASPECT_RATIOS)} feature maps is needed."
        )
    if len(scales) != len(SCALES):
        raise ConfigurationError(
            f"scales={list(scales)!r} has {counted(len(scales), 'entry', 'entries')}; {len(SCALES)} are needed."
        )
    return DefaultBoxGenerator([list(ratios) for ratios in aspect_ratios], scales=list(scales))
