"""Classification with ResNet50."""

from .classifier import ImageClassifier
from .evaluation import ExportedClassifier
from .export import ClassifierExport
from .network import resnet50

__all__ = [
    "ClassifierExport",
    "ExportedClassifier",
    "ImageClassifier",
    "resnet50",
]
