"""Detection with an SSD on a ResNet18 backbone."""

from .decoding import BoxDecoder
from .default_boxes import default_boxes
from .detector import ObjectDetector
from .model import Detector
from .network import SSDResNet18

__all__ = ["BoxDecoder", "Detector", "ObjectDetector", "SSDResNet18", "default_boxes"]
