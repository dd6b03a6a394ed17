"""Differentiable k-means (DKM) of weights: scalars on a grid of their range, vectors one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_compress.dkm.functional import palettize

if TYPE_CHECKING:
    from lightning_compress.dkm.fake_palettize import FakePalettize

__all__ = ["FakePalettize", "palettize"]


def __getattr__(name: str) -> Any:
    # coremltools' class brings torch.ao with it, which a fit does without.
    if name == "FakePalettize":
        from lightning_compress.dkm.fake_palettize import FakePalettize

        return FakePalettize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
