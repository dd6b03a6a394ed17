"""Differentiable k-means (DKM) on a histogram of the weights."""

from __future__ import annotations

from lightning_compress.dkm.kmeans import kmeans_1d

__all__ = ["kmeans_1d"]
