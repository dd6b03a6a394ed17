"""Images with a class each."""

from .digits import DigitsDataModule
from .fashion_mnist import FashionMNISTDataModule
from .image_folder import ImageFolderDataModule

__all__ = ["DigitsDataModule", "FashionMNISTDataModule", "ImageFolderDataModule"]
