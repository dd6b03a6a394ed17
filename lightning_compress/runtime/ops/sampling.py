"""Values of images between their pixels: crops of boxes, affine maps, sampling at coordinates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_compress.runtime.batching import only
from lightning_compress.runtime.ops.resizing import sampling_grid
from lightning_compress.runtime.registry import register


@register("resample", tensors="x coordinates")
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """Values of `x` [B, C, H, W] at `coordinates` [B, H2, W2, 2], which hold (x, y)."""
    sizes = torch.tensor([x.shape[-1], x.shape[-2]], dtype=torch.float32, device=x.device)
    place = coordinates.to(torch.float32)
    if coordinates_mode == "normalized_minus_one_to_one":
        place = (place + 1) / 2
    if coordinates_mode != "unnormalized":
        place = place * (sizes - 1) if align_corners else place * sizes - 0.5
    return _sample(x, place, sampling_mode, padding_mode, padding_value)


@register("affine", tensors="x transform_matrix", samplewise=only("x"))
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """Values of `x` at an affine map of the positions of the result, both from -1 to 1 corner to corner."""
    matrix = transform_matrix.to(torch.float32).reshape(-1, 2, 3).expand(x.shape[0], 2, 3)
    grid = F.affine_grid(matrix, [x.shape[0], x.shape[1], output_height, output_width], align_corners=True)
    return resample(
        x, grid, sampling_mode.lower(), padding_mode.lower(), padding_value, coordinates_mode.lower(), True
    )


@register("crop_resize", tensors="x roi boxes box_indices")
def crop_resize(
    x: Tensor,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: Tensor | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """Resize boxes of images [B, C, H, W] with bilinear interpolation; outside of an image is `pad_value`.

    Until iOS16, `roi` is [N, 1, 4, 1, 1], and every box is cut from every image: [N, B, C, h, w]; or it is
    [N, 1, 5, 1, 1] with an image's number before each box: [N, 1, C, h, w]. Since iOS17, `boxes` is [N, 4] and
    `box_indices` holds the numbers of the images: [N, C, h, w].
    """
    if roi is not None:
        rows = roi.reshape(roi.shape[0], -1)
        count, images = rows.shape[0], x.shape[0]
        corners = rows[:, -4:].to(torch.float32)
        if rows.shape[1] == 5:
            chosen = rows[:, 0].long()
        else:
            corners = corners.repeat_interleave(images, 0)
            chosen = torch.arange(images, device=x.device).repeat(count)
    else:
        assert boxes is not None
        corners = boxes.to(torch.float32)
        chosen = torch.arange(len(boxes), device=x.device) if box_indices is None else box_indices.long()

    sides = _sides(corners * spatial_scale, box_coordinate_mode)
    scales = (x.shape[-2] - 1, x.shape[-1] - 1) if normalized_coordinates else (1, 1)
    places = [
        _grid(start * scale, end * scale, size, sampling_mode)
        for (start, end), scale, size in zip(sides, scales, (target_height, target_width), strict=True)
    ]
    grid = torch.stack(
        (
            places[1].unsqueeze(1).expand(-1, target_height, -1),
            places[0].unsqueeze(2).expand(-1, -1, target_width),
        ),
        -1,
    )
    crops = _sample(x[chosen], grid, "bilinear", "constant", pad_value, outside_is_padding=True)
    if roi is None:
        return crops
    return crops.reshape(count, -1, *crops.shape[1:])


def _sides(boxes: Tensor, mode: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Start and end of each box, of its height and of its width."""
    first, second, third, fourth = boxes.unbind(1)
    if mode.startswith("CENTER_SIZE"):
        first, second, third, fourth = (
            first - third / 2,
            second - fourth / 2,
            first + third / 2,
            second + fourth / 2,
        )
    if mode.endswith("WIDTH_FIRST"):
        return (second, fourth), (first, third)
    return (first, third), (second, fourth)


def _grid(start: Tensor, end: Tensor, count: int, sampling_mode: str) -> Tensor:
    """Positions [boxes, count] from start to end, which take the place of 0 and size - 1 in a whole axis.

    A box that ends before it starts is mirrored.
    """
    extent = (end - start)[:, None]
    grid = sampling_grid(extent.abs() + 1, count, sampling_mode, start.device)
    return start[:, None] + torch.sign(extent) * grid


def _sample(
    x: Tensor,
    place: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    outside_is_padding: bool = False,
) -> Tensor:
    """Values of `x` at pixel positions `place` [B, h, w, 2] in the order (x, y).

    With `outside_is_padding`, positions beyond the outer pixels' centres are padding as a whole; otherwise they are
    interpolated with it.
    """
    sizes = torch.tensor([x.shape[-1], x.shape[-2]], dtype=torch.float32, device=x.device)
    # torch mirrors at the pixels' centres when corners are aligned and at their edges when they are not: MIL's
    # "reflection" and "symmetric".
    aligned = padding_mode == "reflection"
    normalized = 2 * place / (sizes - 1).clamp(min=1) - 1 if aligned else (2 * place + 1) / sizes - 1
    mode = {"constant": "zeros", "border": "border"}.get(padding_mode, "reflection")
    if outside_is_padding:
        mode = "border"
    shift = padding_value if padding_mode == "constant" and not outside_is_padding else 0.0
    sampled = F.grid_sample(x - shift, normalized.to(x.dtype), sampling_mode, mode, aligned) + shift
    if outside_is_padding:
        inside = ((place >= 0) & (place <= sizes - 1)).all(-1).unsqueeze(1)
        sampled = torch.where(inside, sampled, padding_value)
    return sampled
