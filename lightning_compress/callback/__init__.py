"""Compression in a fit: the callback, and all that only it needs."""

from __future__ import annotations

from lightning_compress.callback.compression import Compression
from lightning_compress.callback.distillation import Distillation

__all__ = ["Compression", "Distillation"]
