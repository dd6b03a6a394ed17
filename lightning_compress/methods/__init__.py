"""Compression techniques, one file each, beside the mechanism that serves them all.

What is done to a module, whoever trains it.
"""

from lightning_compress.methods.mechanism.method import Method
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.palettization import DKMPalettization
from lightning_compress.methods.pruning import MagnitudePruning
from lightning_compress.methods.quantization import LinearQuantization

__all__ = ["DKMPalettization", "LinearQuantization", "MagnitudePruning", "Method", "PreparedModule"]
