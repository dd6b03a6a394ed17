"""Images with boxes around their objects."""

from .coco import CocoDataModule
from .digits import DigitsDetectionDataModule
from .penn_fudan import PennFudanDataModule

__all__ = ["CocoDataModule", "DigitsDetectionDataModule", "PennFudanDataModule"]
