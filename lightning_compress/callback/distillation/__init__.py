"""Teachers: a compressed module is drawn to what it computed in float."""

from __future__ import annotations

from lightning_compress.callback.distillation.options import Distillation

__all__ = ["Distillation"]
