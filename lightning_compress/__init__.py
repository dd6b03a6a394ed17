"""Compression during training with Lightning, shipped through Core ML.

Example:
    >>> from lightning_compress import Compression, CoreMLExport, DKMPalettization
    >>> compression = Compression(DKMPalettization(n_bits=2), export=CoreMLExport("net.mlpackage"))
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from lightning_compress.import_messages import silence_import_messages

silence_import_messages()

if TYPE_CHECKING:
    __version__: str
    from lightning_compress.callback import Compression, Distillation
    from lightning_compress.coreml.export import CoreMLExport
    from lightning_compress.methods import (
        GPTQ,
        DKMPalettization,
        GPTQPalettization,
        LinearQuantization,
        MagnitudePruning,
        SensitivePalettization,
        SparseGPT,
    )

__all__ = [
    "GPTQ",
    "Compression",
    "CoreMLExport",
    "DKMPalettization",
    "Distillation",
    "GPTQPalettization",
    "LinearQuantization",
    "MagnitudePruning",
    "SensitivePalettization",
    "SparseGPT",
]

_HOMES = {
    "Compression": "lightning_compress.callback",
    "CoreMLExport": "lightning_compress.coreml.export",
    "DKMPalettization": "lightning_compress.methods",
    "Distillation": "lightning_compress.callback",
    "GPTQ": "lightning_compress.methods",
    "GPTQPalettization": "lightning_compress.methods",
    "LinearQuantization": "lightning_compress.methods",
    "MagnitudePruning": "lightning_compress.methods",
    "SensitivePalettization": "lightning_compress.methods",
    "SparseGPT": "lightning_compress.methods",
}


def __getattr__(name: str) -> Any:
    # Looked up late, so that `dkm`, `coreml` and `runtime` can be used without importing Lightning.
    if name == "__version__":
        # Its one source is pyproject.toml, which the installed metadata is made of.
        return importlib.metadata.version("lightning-compress")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__, "__version__"]
