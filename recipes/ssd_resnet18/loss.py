"""The multibox loss of the SSD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import SSDMatcher
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_convert, box_iou

from .decoding import BOX_CODER


class MultiBoxLoss(nn.Module):
    """torchvision's SSD loss for a network that is not torchvision's SSD.

    Default boxes are matched to objects by overlap; matched ones are regressed (smooth L1), and classified
    with the hardest unmatched ones (cross-entropy). Both sums are divided by the number of matches.

    Args:
        default_boxes: A x 4, centre x, centre y, width, height in shares of the image's side.
        image_size: height and width of the images, in pixels.
        iou_threshold: overlap from which a default box matches an object; each object's best box matches in
            any case.
        negatives_per_positive: how many unmatched boxes count for each matched one.
    """

    corners: Tensor

    def __init__(
        self,
        default_boxes: Tensor,
        image_size: int,
        *,
        iou_threshold: float = 0.5,
        negatives_per_positive: float = 3.0,
    ) -> None:
        super().__init__()
        corners = box_convert(default_boxes, "cxcywh", "xyxy") * image_size
        self.register_buffer("corners", corners, persistent=False)
        self.matcher = SSDMatcher(iou_threshold)
        # SSD.compute_loss reads these two attributes of its instance, and no others.
        self.box_coder = BOX_CODER
        self.neg_to_pos_ratio = negatives_per_positive

    def forward(
        self, logits: Tensor, regression: Tensor, targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The two parts of the loss.

        Args:
            logits: N x A x (1 + classes).
            regression: N x A x 4.
            targets: for each image `boxes`, n x 4 corners in pixels, and `labels`, n, counted from 1.

        Returns:
            `classification` and `bbox_regression`, scalars.
        """
        matches = [self._match(target["boxes"]) for target in targets]
        # Logarithms of box sizes and sums over thousands of boxes are beyond half precision.
        outputs = {"cls_logits": logits.float(), "bbox_regression": regression.float()}
        losses = SSD.compute_loss(self, targets, outputs, [self.corners] * len(targets), matches)
        return cast(dict[str, Tensor], losses)

    def _match(self, boxes: Tensor) -> Tensor:
        if len(boxes) == 0:
            return torch.full((len(self.corners),), -1, dtype=torch.int64, device=boxes.device)
        return cast(Tensor, self.matcher(box_iou(boxes, self.corners)))
