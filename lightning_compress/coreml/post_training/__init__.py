"""Compression of packages after training, which needs no data: the first workflow to try."""

from lightning_compress.coreml.post_training.compression import (
    CompressedPackage,
    compress_package,
    palettize_package,
    require_compressible,
)
from lightning_compress.coreml.post_training.configured import configured_package, read_configuration
from lightning_compress.coreml.post_training.form import PostTrainingForm

__all__ = [
    "CompressedPackage",
    "PostTrainingForm",
    "compress_package",
    "configured_package",
    "palettize_package",
    "read_configuration",
    "require_compressible",
]
