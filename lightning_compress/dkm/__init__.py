"""Differentiable k-means (DKM) on a histogram of the weights."""

from __future__ import annotations

from lightning_compress.dkm.fake_palettize import FakePalettize
from lightning_compress.dkm.functional import palettize
from lightning_compress.dkm.palettizer import DKMPalettizer

__all__ = ["DKMPalettizer", "FakePalettize", "palettize"]
