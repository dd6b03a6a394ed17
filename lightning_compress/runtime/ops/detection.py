"""Non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert, nms

from lightning_compress.runtime.registry import register


@register("non_maximum_suppression", tensors="boxes scores", traceable=False)
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    score_threshold: float | None = None,
    per_class_suppression: bool = False,
) -> tuple[Tensor, ...]:
    """Keep the best of overlapping boxes, given as (x, y, width, height) around their centres.

    Until iOS16: `boxes` [n, B, 4], `scores` [n, B, K] and a score threshold; the results are boxes, scores, indices and
    the number of boxes kept. Since iOS17: [n, 4, B] and [n, K, B], no threshold and no number. Results are filled up
    to `max_boxes` with zeros and indices of -1.
    """
    last = score_threshold is None
    if last:
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
    kept_boxes, kept_scores, indices, numbers = [], [], [], []
    for sample_boxes, sample_scores in zip(boxes, scores, strict=True):
        kept = suppress(sample_boxes, sample_scores, iou_threshold, score_threshold, per_class_suppression)
        kept = kept[:max_boxes]
        missing = max_boxes - len(kept)
        kept_boxes.append(torch.nn.functional.pad(sample_boxes[kept], (0, 0, 0, missing)))
        kept_scores.append(torch.nn.functional.pad(sample_scores[kept], (0, 0, 0, missing)))
        indices.append(torch.nn.functional.pad(kept.to(torch.int32), (0, missing), value=-1))
        numbers.append(len(kept))
    results = torch.stack(kept_boxes), torch.stack(kept_scores)
    if last:
        return (*(result.transpose(1, 2) for result in results), torch.stack(indices))
    number = torch.tensor(numbers, dtype=torch.int32, device=boxes.device)
    return (*results, torch.stack(indices), number)


def suppress(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float | None, per_class: bool
) -> Tensor:
    """Positions of the boxes to keep, best first.

    Args:
        boxes: [B, 4] as (x, y, width, height) around the centre.
        scores: [B, K], a score for each class; a box counts as its best class.
        iou_threshold: boxes that overlap a better one by more are dropped.
        score_threshold: boxes whose best score is below it are dropped; None keeps all.
        per_class: only boxes of the same class suppress one another.
    """
    best, labels = scores.max(1)
    candidates = torch.arange(len(boxes), device=boxes.device)
    if score_threshold is not None:
        candidates = candidates[best >= score_threshold]
    corners = box_convert(boxes.to(torch.float32), "cxcywh", "xyxy")
    groups = [candidates]
    if per_class:
        groups = [candidates[labels[candidates] == label] for label in torch.unique(labels[candidates])]
    kept = [group[nms(corners[group], best[group].to(torch.float32), iou_threshold)] for group in groups]
    together = torch.cat(kept) if kept else candidates
    return together[torch.argsort(best[together], dim=0, descending=True, stable=True)]
