"""Compression techniques, one file each: what is done to a module, whoever trains it."""

from lightning_compress.methods.palettization import DKMPalettization

__all__ = ["DKMPalettization"]
