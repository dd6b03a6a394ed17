"""Reading Core ML packages: what they hold, how their weights are stored, their sizes; and writing them whole."""

from __future__ import annotations

from lightning_compress.package.inspection import PackageReport, decompressed_weights, inspect
from lightning_compress.package.rendering import render
from lightning_compress.package.save import save_package
from lightning_compress.package.targets import Capability, palettization_capabilities, resolve_target

__all__ = [
    "Capability",
    "PackageReport",
    "decompressed_weights",
    "inspect",
    "palettization_capabilities",
    "render",
    "resolve_target",
    "save_package",
]
