"""Semantic segmentation: a class for each pixel."""

from .draw import draw_segmentations, segmentation_sheet
from .model import Segmenter
from .segmenter import ImageSegmenter

__all__ = ["ImageSegmenter", "Segmenter", "draw_segmentations", "segmentation_sheet"]
