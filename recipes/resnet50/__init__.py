"""Classification with ResNet50."""

from .classifier import ImageClassifier
from .digits import DigitsDataModule
from .evaluation import ExportedClassifier
from .export import ClassifierExport
from .fashion_mnist import FashionMNISTDataModule
from .image_folder import ImageFolderDataModule
from .network import resnet50

__all__ = [
    "ClassifierExport",
    "DigitsDataModule",
    "ExportedClassifier",
    "FashionMNISTDataModule",
    "ImageClassifier",
    "ImageFolderDataModule",
    "resnet50",
]
