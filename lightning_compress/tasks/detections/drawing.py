"""Pictures of detections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import matplotlib
import torch
from PIL import ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, resize, to_dtype, to_pil_image
from torchvision.utils import draw_bounding_boxes, make_grid

from lightning_compress.tasks.detections.selection import Detected

#: Images are enlarged at least twice, and to this many pixels, before labels of this height are written.
_CELL = 320
_TEXT = 12
#: Boxes drawn of an image: a detector that has hardly learnt finds hundreds.
_MOST_BOXES = 20
_COLORS = ("#ff3b30", "#0a84ff", "#b8860b", "#30d158", "#bf5af2", "#ff9f0a")


def draw_detections(
    images: Tensor,
    detections: Sequence[Detected],
    class_names: Sequence[str],
    *,
    threshold: float = 0.3,
    most_boxes: int = _MOST_BOXES,
    columns: int = 4,
) -> Tensor:
    """A grid of images with their detections, each with class and score.

    Args:
        images: N x 3 x H x W in [0, 1].
        detections: for each image, as `select_detections` returns them.
        class_names: name of class 1, 2, ...
        threshold: detections of a smaller score are not drawn.
        most_boxes: how many are drawn of an image, the best.
        columns: images in a row.

    Returns:
        3 x H x W in [0, 1].
    """
    cells = [
        _draw(image, detection, class_names, threshold, most_boxes)
        for image, detection in zip(images, detections, strict=True)
    ]
    return cast(Tensor, make_grid(torch.stack(cells), nrow=columns, padding=4, pad_value=1.0))


def _draw(
    image: Tensor, detection: Detected, class_names: Sequence[str], threshold: float, most_boxes: int
) -> Tensor:
    height, width = image.shape[-2:]
    scale = max(2.0, _CELL / max(height, width))
    enlarged = resize(image.cpu(), [round(height * scale), round(width * scale)], antialias=True).clamp(0, 1)
    order = detection["scores"].argsort(descending=True)[:most_boxes].tolist()
    # The strongest detection comes last, so that its label lies on top.
    shown = [index for index in order if detection["scores"][index] >= threshold][::-1]
    if not shown:
        return cast(Tensor, enlarged)
    boxes = (detection["boxes"][shown] * scale).cpu()
    classes = [int(label) - 1 for label in detection["labels"][shown]]
    colors = [_COLORS[index % len(_COLORS)] for index in classes]
    labels = [
        f"{class_names[index]} {score:.2f}"
        for index, score in zip(classes, detection["scores"][shown].tolist(), strict=True)
    ]
    return _label(draw_bounding_boxes(enlarged, boxes, colors=colors, width=2), boxes, labels, colors)


def _label(image: Tensor, boxes: Tensor, labels: Sequence[str], colors: Sequence[str]) -> Tensor:
    """Writes each label above its box; torchvision would write over what is in the box."""
    picture = to_pil_image(image)
    draw = ImageDraw.Draw(picture)
    # Pillow's own font has no bold face.
    # And Pillow 10.0 takes no Path.
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    font = ImageFont.truetype(str(file), _TEXT)
    for (left, top, _, _), label, color in zip(boxes.tolist(), labels, colors, strict=True):
        width = draw.textlength(label, font=font) + 4
        x = max(0.0, min(left - 1, image.shape[-1] - width))
        y = max(0.0, top - _TEXT - 5)
        draw.rectangle((x, y, x + width, y + _TEXT + 4), fill=color)
        draw.text((x + 2, y + 1), label, fill="white", font=font)
    return cast(Tensor, to_dtype(pil_to_tensor(picture), torch.float32, scale=True))
