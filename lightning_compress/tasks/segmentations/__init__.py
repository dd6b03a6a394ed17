"""Pictures of classes of pixels."""

from lightning_compress.tasks.segmentations.drawing import draw_segmentations

__all__ = ["draw_segmentations"]
