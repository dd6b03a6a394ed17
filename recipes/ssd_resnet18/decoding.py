"""From the network's outputs to boxes, and from boxes to detections."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, box_convert, clip_boxes_to_image

Detection = dict[str, Tensor]

#: torchvision's SSD scales its regression targets by these.
BOX_CODER = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))


class BoxDecoder(nn.Module):
    """Decodes box regression against the default boxes, as torchvision's `BoxCoder` does.

    Everything stays in shares of the image's side, centre and size: what Vision expects, and what float16
    carries best.

    Args:
        default_boxes: A x 4, centre x, centre y, width, height in shares of the image's side.

    Shapes:
        Input: ... x A x 4. Output: the same, centre x, centre y, width, height.
    """

    centers: Tensor
    sizes: Tensor

    def __init__(self, default_boxes: Tensor) -> None:
        super().__init__()
        # Derived from the configuration: not part of a checkpoint.
        self.register_buffer("centers", default_boxes[:, :2].clone(), persistent=False)
        self.register_buffer("sizes", default_boxes[:, 2:].clone(), persistent=False)

    def forward(self, regression: Tensor) -> Tensor:
        """Decoded boxes."""
        center_weight, _, size_weight, _ = BOX_CODER.weights
        centers = self.centers + regression[..., :2] * (self.sizes / center_weight)
        # A regression gone astray must not overflow the exponential. Its lower bound changes nothing; without one
        # coremltools 9 writes float32's lowest number, which overflows with a warning in float16.
        growth = torch.clamp(regression[..., 2:] / size_weight, min=-1e4, max=BOX_CODER.bbox_xform_clip)
        return torch.cat([centers, self.sizes * growth.exp()], dim=-1)


class DetectionThresholds(NamedTuple):
    """How detections are chosen from scored boxes; the values are torchvision's for its SSD.

    Attributes:
        score: smaller scores are dropped.
        iou: of two boxes of a class that overlap more, the weaker is dropped (non-maximum suppression).
        candidates: how many boxes of each class enter non-maximum suppression.
        detections: how many detections an image may have.
    """

    score: float = 0.01
    iou: float = 0.45
    candidates: int = 400
    detections: int = 200


def select_detections(
    scores: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    thresholds: DetectionThresholds = DetectionThresholds(),  # noqa: B008  # immutable
) -> Detection:
    """Chooses the detections of one image.

    Args:
        scores: A x classes, background left out.
        boxes: A x 4, centre x, centre y, width, height in shares of the image's sides.
        image_size: height and width in pixels.
        thresholds: how to choose.

    Returns:
        `boxes` n x 4 as corners in pixels, `scores` n in descending order, `labels` n counted from 1, as
        torchvision's detectors count.
    """
    height, width = image_size
    corners = box_convert(boxes, "cxcywh", "xyxy") * boxes.new_tensor([width, height, width, height])
    corners = clip_boxes_to_image(corners, image_size)
    best, candidates = scores.topk(min(thresholds.candidates, len(scores)), dim=0)
    keep = best > thresholds.score
    chosen_scores = best[keep]
    chosen_boxes = corners[candidates[keep]]
    labels = torch.arange(1, scores.shape[1] + 1, device=scores.device).expand_as(best)[keep]
    order = batched_nms(chosen_boxes, chosen_scores, labels, thresholds.iou)[: thresholds.detections]
    return {"boxes": chosen_boxes[order], "scores": chosen_scores[order], "labels": labels[order]}
