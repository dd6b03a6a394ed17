"""Making Core ML packages: conversion, interface, post-training compression, model card, verification."""

from __future__ import annotations

from lightning_compress.coreml.card import model_card, write_model_card
from lightning_compress.coreml.detector import NonMaximumSuppression
from lightning_compress.coreml.export import CoreMLExport, ExportedPackage
from lightning_compress.coreml.image import ImageInput, SizeRange
from lightning_compress.coreml.metadata import add_metadata
from lightning_compress.coreml.post_training import PostTrainingForm, compress_package, palettize_package
from lightning_compress.coreml.tolerance import Tolerance
from lightning_compress.coreml.wrappers import softmax_outputs

__all__ = [
    "CoreMLExport",
    "ExportedPackage",
    "ImageInput",
    "NonMaximumSuppression",
    "PostTrainingForm",
    "SizeRange",
    "Tolerance",
    "add_metadata",
    "compress_package",
    "model_card",
    "palettize_package",
    "softmax_outputs",
    "write_model_card",
]
