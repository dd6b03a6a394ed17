"""Detection with an SSD on a ResNet18 backbone."""

from .decoding import (
    BoxDecoder,
    DetectionThresholds,
    select_detections,
)
from .default_boxes import default_boxes
from .detector import ObjectDetector
from .draw import draw_detections, save_sample_detections
from .evaluation import ExportedDetector
from .export import DetectorExport
from .network import SSDResNet18

__all__ = [
    "BoxDecoder",
    "DetectionThresholds",
    "DetectorExport",
    "ExportedDetector",
    "ObjectDetector",
    "SSDResNet18",
    "default_boxes",
    "draw_detections",
    "save_sample_detections",
    "select_detections",
]
