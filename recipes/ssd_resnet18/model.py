"""The detector as apps call it: images in, confidences and coordinates out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..normalization import Normalized
from .decoding import BoxDecoder
from .default_boxes import ASPECT_RATIOS, SCALES, default_box_grids


class Detector(Normalized):
    """Normalization before an SSD, a softmax and box decoding after it.

    The outputs are what Core ML's non-maximum suppression and Vision take: coordinates are centre x, centre
    y, width and height, each a share of the image's side, from its upper left corner. Boxes are cut at the
    image's edges, so that suppression sees them as `select_detections` does.

    Args:
        network: takes normalized images, returns class logits and box regression, as `SSDResNet18` does.
        image_size: height and width of the images, in pixels.
        scales: of the default boxes; those that the network was trained with.
        aspect_ratios: likewise.

    Shapes:
        Input: N x 3 x H x W, RGB in [0, 1]. Outputs: confidence N x A x classes, background left out; coordinates
            N x A x 4.
    """

    def __init__(
        self,
        network: nn.Module,
        image_size: int,
        scales: Sequence[float] = SCALES,
        aspect_ratios: Sequence[Sequence[float]] = ASPECT_RATIOS,
    ) -> None:
        super().__init__(network)
        self.decoder = BoxDecoder(default_box_grids(image_size, scales, aspect_ratios))

    def predictions(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits and box regression, which training compares with the objects; see `SSDResNet18`."""
        logits, regression = self.network(self.normalize(images))
        return logits, regression

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Confidence and coordinates."""
        logits, regression = self.predictions(images)
        return logits.softmax(dim=-1)[..., 1:], cut_at_edges(self.decoder(regression))


def cut_at_edges(boxes: Tensor) -> Tensor:
    """Boxes without what lies outside of the image.

    Shapes:
        Input and output: ... x 4, centre x, centre y, width, height in shares of the image's sides.
    """
    centers, halves = boxes[..., :2], boxes[..., 2:] / 2
    upper_left, lower_right = (centers - halves).clamp(0, 1), (centers + halves).clamp(0, 1)
    return torch.cat([(upper_left + lower_right) / 2, lower_right - upper_left], dim=-1)
