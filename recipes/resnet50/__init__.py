"""Classification with ResNet50."""

from .classifier import ImageClassifier
from .network import resnet50

__all__ = [
    "ImageClassifier",
    "resnet50",
]
