"""Compression techniques, one file each, beside the mechanism that serves them all.

What is done to a module, whoever trains it.
"""

from lightning_compress.methods.gptq import GPTQ
from lightning_compress.methods.gptq_palettization import GPTQPalettization
from lightning_compress.methods.importance import squared_gradients
from lightning_compress.methods.mechanism.calibration import calibrate
from lightning_compress.methods.mechanism.method import Method
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.palettization import DKMPalettization
from lightning_compress.methods.pruning import MagnitudePruning
from lightning_compress.methods.quantization import LinearQuantization
from lightning_compress.methods.sensitive_palettization import SensitivePalettization
from lightning_compress.methods.sparse_gpt import SparseGPT

__all__ = [
    "GPTQ",
    "DKMPalettization",
    "GPTQPalettization",
    "LinearQuantization",
    "MagnitudePruning",
    "Method",
    "PreparedModule",
    "SensitivePalettization",
    "SparseGPT",
    "calibrate",
    "squared_gradients",
]
