"""Detection with an SSD on a ResNet18 backbone."""

from .coco import CocoDataModule
from .decoding import (
    BoxDecoder,
    DetectionThresholds,
    select_detections,
)
from .default_boxes import default_boxes
from .detector import ObjectDetector
from .digits import DigitsDetectionDataModule
from .draw import draw_detections, save_sample_detections
from .evaluation import ExportedDetector
from .export import DetectorExport
from .network import SSDResNet18
from .penn_fudan import PennFudanDataModule

__all__ = [
    "BoxDecoder",
    "CocoDataModule",
    "DetectionThresholds",
    "DetectorExport",
    "DigitsDetectionDataModule",
    "ExportedDetector",
    "ObjectDetector",
    "PennFudanDataModule",
    "SSDResNet18",
    "default_boxes",
    "draw_detections",
    "save_sample_detections",
    "select_detections",
]
