"""The passes in C, for processors: an optional library, built when the package is installed with a compiler at hand.

They compute what `dkm.passes` and `dkm.attender` compute with torch, which takes their place on other devices and
where there was no compiler.
"""

from __future__ import annotations

from lightning_compress.dkm.native.attender import NativeAttender
from lightning_compress.dkm.native.library import serves
from lightning_compress.dkm.native.scalars import serves_scalars
from lightning_compress.dkm.native.vectors import assign, move_once, serves_vectors

__all__ = [
    "NativeAttender",
    "assign",
    "move_once",
    "serves",
    "serves_scalars",
    "serves_vectors",
]
