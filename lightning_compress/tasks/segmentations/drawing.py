"""Pictures of what segmentation networks see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import matplotlib
import torch
from PIL import ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, resize, to_dtype, to_pil_image
from torchvision.utils import draw_segmentation_masks, make_grid

#: Images are enlarged to this many pixels, before text of this height is written.
_CELL = 192
_TEXT = 12
_GAP = 4
#: How much of the class's color an overlay shows.
_OPACITY = 0.75
_HEAT = matplotlib.colormaps["inferno"]
#: Without grey, which many images are.
_COLORS = [
    tuple(round(255 * share) for share in color)
    for name in ("tab10", "tab20b", "tab20c")
    for color in matplotlib.colormaps[name].colors  # type: ignore[attr-defined]  # of the listed ones
    if max(color) - min(color) > 0.1
]


def draw_segmentations(
    images: Tensor, probabilities: Tensor, class_names: Sequence[str], *, columns: int = 2
) -> Tensor:
    """A grid of images, each with the probability of one class as a heat map and with the classes laid over it.

    The heat map is of the class, other than the background, that covers most of the image.

    Args:
        images: N x 3 x H x W in [0, 1].
        probabilities: of each class at each pixel, N x classes x H x W.
        class_names: one name a class, the background's first.
        columns: images in a row, each with its two pictures.

    Returns:
        3 x H x W in [0, 1].
    """
    chosen = most_present(probabilities)
    cells = [
        cell
        for image, probability, label in zip(images, probabilities, chosen, strict=True)
        for cell in _triple(image, probability, label, class_names)
    ]
    return cast(Tensor, make_grid(torch.stack(cells), nrow=3 * columns, padding=_GAP, pad_value=1.0))


def most_present(probabilities: Tensor) -> list[int]:
    """For each image the class, other than the background, that is seen at most of its pixels.

    Where only background is seen, it is the class that comes nearest to it.

    Args:
        probabilities: N x classes x H x W.
    """
    classes = probabilities.argmax(dim=1)
    # A share is at most 1, so that probabilities count only between classes that are seen at as many pixels.
    seen = torch.stack(
        [(classes == label).flatten(1).sum(dim=1) for label in range(probabilities.shape[1])], dim=1
    )
    score = seen + probabilities.float().mean(dim=(2, 3)).cpu()
    return [int(label) + 1 for label in score[:, 1:].argmax(dim=1)]


def _triple(image: Tensor, probability: Tensor, label: int, class_names: Sequence[str]) -> list[Tensor]:
    """An image, the heat map of a class, and all classes laid over the image; each 3 x cell x cell."""
    image = image.cpu().float()
    heat = torch.from_numpy(_HEAT(probability[label].detach().cpu().float().numpy())[..., :3]).permute(
        2, 0, 1
    )
    classes = probability.detach().cpu().argmax(dim=0)
    present = sorted(set(classes.flatten().tolist()) - {0})
    colors = [_COLORS[(index - 1) % len(_COLORS)] for index in present]
    overlay = image
    if present:
        masks = torch.stack([classes == index for index in present])
        overlay = draw_segmentation_masks(image.clamp(0, 1), masks, alpha=_OPACITY, colors=colors)
    plain, heat, overlay = (_enlarge(cell.float()) for cell in (image, heat, overlay))
    heat = _write(heat, f"{class_names[label]}: up to {probability[label].max():.2f}", (4, 4), "white")
    x = 4.0
    for index, color in zip(present, colors, strict=True):
        overlay = _write(overlay, class_names[index], (x, 4), color)
        x += _font().getlength(class_names[index]) + 8
    return [plain, heat, overlay]


def _enlarge(cell: Tensor) -> Tensor:
    height, width = cell.shape[-2:]
    scale = max(1.0, _CELL / max(height, width))
    return cast(
        Tensor, resize(cell, [round(height * scale), round(width * scale)], antialias=True).clamp(0, 1)
    )


def _write(cell: Tensor, text: str, place: tuple[float, float], color: str | tuple[int, ...]) -> Tensor:
    picture = to_pil_image(cell)
    draw = ImageDraw.Draw(picture)
    edge = 0 if color == "black" else 2
    draw.text(place, text, fill=color, font=_font(), stroke_width=edge, stroke_fill="black")
    return cast(Tensor, to_dtype(pil_to_tensor(picture), torch.float32, scale=True))


def _font() -> ImageFont.FreeTypeFont:
    # Pillow's own font has no bold face, and Pillow 10.0 takes no Path.
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return ImageFont.truetype(str(file), _TEXT)
