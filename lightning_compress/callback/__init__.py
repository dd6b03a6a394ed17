"""Compression in a fit: the callback, and all that only it needs."""

from __future__ import annotations

from lightning_compress.callback.compression import Compression

__all__ = ["Compression"]
