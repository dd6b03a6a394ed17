from __future__ import annotations

import torch

from lightning_compress.tasks.detections import draw_detections

SIDE = 64


def test_pictures_show_detections_above_the_threshold() -> None:
    images = torch.full((2, 3, SIDE, SIDE), 0.5)
    detection = {
        "boxes": torch.tensor([[8.0, 8, 40, 40], [20.0, 30, 50, 60]]),
        "scores": torch.tensor([0.9, 0.2]),
        "labels": torch.tensor([1, 1]),
    }
    nothing = {
        "boxes": torch.zeros(0, 4),
        "scores": torch.zeros(0),
        "labels": torch.zeros(0, dtype=torch.int64),
    }
    shown = draw_detections(images, [detection, nothing], ["digit"], columns=2)
    assert shown.shape[0] == 3
    both = draw_detections(images, [detection, nothing], ["digit"], columns=2, threshold=0.1)
    first, second = shown[:, :, : shown.shape[2] // 2], shown[:, 8:-8, shown.shape[2] // 2 + 8 : -8]
    assert (first != 0.5).any()
    assert (second == 0.5).all()
    assert not torch.equal(shown, both)


def test_pictures_show_the_best_boxes_alone() -> None:
    images = torch.full((1, 3, SIDE, SIDE), 0.5)
    left, top = torch.meshgrid(torch.arange(0, SIDE - 8, 4.0), torch.arange(0, SIDE - 8, 4.0), indexing="ij")
    corners = torch.stack([left.flatten(), top.flatten()], dim=1)
    scores = torch.linspace(0.3, 0.99, len(corners))
    many = {
        "boxes": torch.cat([corners, corners + 8], dim=1),
        "scores": scores,
        "labels": torch.ones(len(corners), dtype=torch.int64),
    }
    best = {key: value[-20:] for key, value in many.items()}
    assert len(corners) > 20
    shown = draw_detections(images, [many], ["digit"])
    assert torch.equal(shown, draw_detections(images, [best], ["digit"]))
    assert not torch.equal(shown, draw_detections(images, [many], ["digit"], most_boxes=100))
