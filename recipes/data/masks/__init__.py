"""Images with a class for each pixel."""

from .coco import CocoMasksDataModule
from .digits import DigitsMasksDataModule
from .mask_folder import MaskFolderDataModule
from .oxford_pet import OxfordPetDataModule
from .pascal_voc import PascalVOCDataModule

__all__ = [
    "CocoMasksDataModule",
    "DigitsMasksDataModule",
    "MaskFolderDataModule",
    "OxfordPetDataModule",
    "PascalVOCDataModule",
]
