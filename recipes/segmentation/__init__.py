"""Semantic segmentation: a class for each pixel."""

from .model import Segmenter
from .segmenter import ImageSegmenter

__all__ = ["ImageSegmenter", "Segmenter"]
