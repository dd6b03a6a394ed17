"""Compression techniques, one file each: what is done to a module, whoever trains it."""

from lightning_compress.methods.base import Method, PreparedMethod
from lightning_compress.methods.joint import PreparedModule
from lightning_compress.methods.palettization import DKMPalettization
from lightning_compress.methods.pruning import MagnitudePruning
from lightning_compress.methods.quantization import LinearQuantization
from lightning_compress.methods.summary import LayerSummary, summarize

__all__ = [
    "DKMPalettization",
    "LayerSummary",
    "LinearQuantization",
    "MagnitudePruning",
    "Method",
    "PreparedMethod",
    "PreparedModule",
    "summarize",
]
