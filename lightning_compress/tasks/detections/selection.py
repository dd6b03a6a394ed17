"""From scored boxes to detections."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert, clip_boxes_to_image

Detected = dict[str, Tensor]
"""The detections of one image: `boxes`, `scores` and `labels`."""


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
) -> Detected:
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
