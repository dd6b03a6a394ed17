"""Compression techniques, one file each, beside the mechanism that serves them all.

What is done to a module, whoever trains it.
"""

from lightning_compress.methods.palettization import DKMPalettization
from lightning_compress.methods.pruning import MagnitudePruning

__all__ = ["DKMPalettization", "MagnitudePruning"]
