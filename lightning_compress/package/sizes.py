"""How large a package is, and how large the same model would be at float16."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lightning_compress.package.files import regular_files
from lightning_compress.package.opening import Package
from lightning_compress.package.weights import Weight

_FILE_HEADER = 64
_BLOB_HEADER = 64
_ALIGNMENT = 64


def package_bytes(path: str | Path) -> int:
    """Bytes of all files of a package: what an app grows by."""
    return sum(size for _, size in regular_files(Path(path)))


def weight_bytes(package: Package) -> int:
    """Bytes of a package's weight files."""
    return sum(file.stat().st_size for file in package.weight_files)


def float16_weight_bytes(weights: Iterable[Weight]) -> int:
    """Bytes of the weight file of the same model with every weight dense at float16.

    Computed from the shapes and the layout of Core ML's weight files (a header, then for each weight a header
    and its data, each aligned to 64 bytes), without converting the model again. Agrees with a converted
    float16 package within 1%; what is left comes from batch normalization, which the converter folds into
    dense weights alone.
    """
    total = _FILE_HEADER
    for weight in weights:
        total += _BLOB_HEADER + -(-weight.float16_bytes // _ALIGNMENT) * _ALIGNMENT
    return total
