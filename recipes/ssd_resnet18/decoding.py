"""From the network's outputs to boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder

#: torchvision's SSD scales its regression targets by these.
BOX_CODER = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))


class BoxDecoder(nn.Module):
    """Decodes box regression against the default boxes, as torchvision's `BoxCoder` does.

    Everything stays in shares of the image's side, centre and size, which is what Vision expects. The centres of a
    feature map's boxes follow from its rows and columns, and their sizes are those of any cell, so little is kept and
    shipped: for the 8,744 boxes at 300 pixels 736 numbers instead of 35 thousand.

    Args:
        grids: Of each feature map rows x columns x boxes of a cell x 4, see `default_box_grids`.

    Shapes:
        Input: N x A x 4. Output: the same, centre x, centre y, width, height.
    """

    def __init__(self, grids: Sequence[Tensor]) -> None:
        super().__init__()
        center_weight, _, size_weight, _ = BOX_CODER.weights
        self.size_weight = size_weight
        self.shapes = [tuple(grid.shape) for grid in grids]
        for index, grid in enumerate(grids):
            sizes = grid[0, 0, :, 2:]
            # Derived from the configuration: not part of a checkpoint.
            self._buffer("scale", index, torch.cat([sizes / center_weight, sizes], dim=-1))
            self._buffer("column", index, F.pad(grid[:1, :, :1, :1], (0, 3)))
            self._buffer("row", index, F.pad(grid[:, :1, :1, 1:2], (1, 2)))

    def forward(self, regression: Tensor) -> Tensor:
        """Decoded boxes."""
        # A regression gone astray must not overflow the exponential. Its lower bound changes nothing; without one
        # coremltools 9 writes float32's lowest number, which overflows with a warning in float16.
        growth = torch.clamp(regression[..., 2:] / self.size_weight, min=-1e4, max=BOX_CODER.bbox_xform_clip)
        relative = torch.cat([regression[..., :2], growth.exp()], dim=-1)
        decoded, start = [], 0
        for index, shape in enumerate(self.shapes):
            end = start + math.prod(shape[:3])
            part = relative[:, start:end].reshape(-1, *shape)
            scale, column, row = (self.get_buffer(f"{name}_{index}") for name in ("scale", "column", "row"))
            decoded.append((part * scale + column + row).reshape(-1, end - start, 4))
            start = end
        return torch.cat(decoded, dim=1)

    def _buffer(self, name: str, index: int, value: Tensor) -> None:
        self.register_buffer(f"{name}_{index}", value, persistent=False)
