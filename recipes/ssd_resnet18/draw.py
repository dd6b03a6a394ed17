"""Pictures of sample detections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import matplotlib
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize
from torchvision.utils import draw_bounding_boxes, make_grid, save_image

from ..datamodule import RecipeDataModule
from .decoding import Detection
from .evaluation import DetectionEvaluation

#: Images are enlarged to this many pixels before labels are written, so that they can be read.
_CELL = 320
_COLORS = ("#ff3b30", "#0a84ff", "#ffd60a", "#30d158", "#bf5af2", "#ff9f0a")


def draw_detections(
    images: Tensor,
    detections: Sequence[Detection],
    class_names: Sequence[str],
    *,
    threshold: float = 0.3,
    columns: int = 4,
) -> Tensor:
    """A grid of images with their detections, each with class and score.

    Args:
        images: N x 3 x H x W in [0, 1].
        detections: for each image, as `DetectionEvaluation.detect` returns them.
        class_names: name of class 1, 2, ...
        threshold: detections of a smaller score are not drawn.
        columns: images in a row.

    Returns:
        3 x H x W in [0, 1].
    """
    cells = [
        _draw(image, detection, class_names, threshold)
        for image, detection in zip(images, detections, strict=True)
    ]
    return cast(Tensor, make_grid(torch.stack(cells), nrow=columns, padding=4, pad_value=1.0))


def save_sample_detections(
    detector: DetectionEvaluation,
    data: RecipeDataModule,
    path: str | Path,
    *,
    count: int = 8,
    threshold: float = 0.3,
    columns: int = 4,
) -> Path:
    """Draws what a detector finds in the first validation images, and saves it as a PNG.

    Args:
        detector: an `ObjectDetector` or an `ExportedDetector`.
        data: gives images and class names.
        path: of the file; its folder is made where it is missing.
        count: number of images.
        threshold: detections of a smaller score are not drawn.
        columns: images in a row.
    """
    images = data.sample_images(count)
    training = detector.training
    detector.eval()
    with torch.no_grad():
        detections = detector.detect(images.to(detector.device))
    detector.train(training)
    grid = draw_detections(images, detections, data.class_names, threshold=threshold, columns=columns)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(grid, path)
    return path


def _draw(image: Tensor, detection: Detection, class_names: Sequence[str], threshold: float) -> Tensor:
    height, width = image.shape[-2:]
    scale = max(1.0, _CELL / max(height, width))
    enlarged = resize(image.cpu(), [round(height * scale), round(width * scale)], antialias=True).clamp(0, 1)
    keep = detection["scores"] >= threshold
    boxes = (detection["boxes"][keep] * scale).cpu()
    if len(boxes) == 0:
        return cast(Tensor, enlarged)
    labels = [int(label) for label in detection["labels"][keep]]
    return cast(
        Tensor,
        draw_bounding_boxes(
            enlarged,
            boxes,
            labels=[
                f"{class_names[label - 1]} {score:.2f}"
                for label, score in zip(labels, detection["scores"][keep].tolist(), strict=True)
            ],
            colors=[_COLORS[(label - 1) % len(_COLORS)] for label in labels],
            width=2,
            # Pillow's own font has one tiny size.
            font=str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"),
            font_size=13,
            label_colors="white",
            fill_labels=True,
        ),
    )
