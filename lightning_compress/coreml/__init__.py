"""Core ML packages: conversion, interface, post-training compression, sizes, atomic save."""

from lightning_compress.coreml.quiet import silence_import_messages

silence_import_messages()

from lightning_compress.coreml.export import CoreMLExport, ExportedPackage  # noqa: E402
from lightning_compress.coreml.image import ImageInput  # noqa: E402
from lightning_compress.coreml.inspection import PackageReport, decompressed_weights, inspect  # noqa: E402
from lightning_compress.coreml.post_training import palettize_package  # noqa: E402
from lightning_compress.coreml.rendering import render  # noqa: E402
from lightning_compress.coreml.rewriting import prune_package, quantize_package  # noqa: E402
from lightning_compress.coreml.save import save_package  # noqa: E402
from lightning_compress.coreml.targets import (  # noqa: E402
    Capability,
    palettization_capabilities,
    resolve_target,
)
from lightning_compress.coreml.wrappers import softmax_outputs  # noqa: E402

__all__ = [
    "Capability",
    "CoreMLExport",
    "ExportedPackage",
    "ImageInput",
    "PackageReport",
    "decompressed_weights",
    "inspect",
    "palettization_capabilities",
    "palettize_package",
    "prune_package",
    "quantize_package",
    "render",
    "resolve_target",
    "save_package",
    "softmax_outputs",
]
