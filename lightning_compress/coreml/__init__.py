"""Core ML packages: conversion, interface, post-training compression, sizes, atomic save."""

from lightning_compress.coreml.card import model_card, write_model_card
from lightning_compress.coreml.detector import NonMaximumSuppression
from lightning_compress.coreml.export import CoreMLExport, ExportedPackage
from lightning_compress.coreml.image import ImageInput, SizeRange
from lightning_compress.coreml.inspection import PackageReport, decompressed_weights, inspect
from lightning_compress.coreml.metadata import add_metadata
from lightning_compress.coreml.post_training import palettize_package
from lightning_compress.coreml.rendering import render
from lightning_compress.coreml.rewriting import prune_package, quantize_package
from lightning_compress.coreml.save import save_package
from lightning_compress.coreml.targets import (
    Capability,
    palettization_capabilities,
    resolve_target,
)
from lightning_compress.coreml.tolerance import Tolerance
from lightning_compress.coreml.wrappers import softmax_outputs

__all__ = [
    "Capability",
    "CoreMLExport",
    "ExportedPackage",
    "ImageInput",
    "NonMaximumSuppression",
    "PackageReport",
    "SizeRange",
    "Tolerance",
    "add_metadata",
    "decompressed_weights",
    "inspect",
    "model_card",
    "palettization_capabilities",
    "palettize_package",
    "prune_package",
    "quantize_package",
    "render",
    "resolve_target",
    "save_package",
    "softmax_outputs",
    "write_model_card",
]
