"""Compression techniques, one file each: what is done to a tensor, whoever trains it."""

from lightning_compress.methods.quantization import LinearQuantization

__all__ = ["LinearQuantization"]
