"""Fits that cannot be distilled, or not as a checkpoint has begun."""

from __future__ import annotations

from typing import Any

import lightning as L

from lightning_compress.errors import ConfigurationError


def require_automatic_optimization(pl_module: L.LightningModule) -> None:
    """Refuse a module that goes backward itself, in which there is no loss to add to.

    Raises:
        ConfigurationError: It optimizes by hand.
    """
    if not pl_module.automatic_optimization:
        raise ConfigurationError(
            f"Distillation adds to the loss that training_step returns, and {type(pl_module).__name__} optimizes by "
            "hand (automatic_optimization=False); add a loss of its outputs there, or let Lightning optimize"
        )


def require_same_distillation(
    saved: dict[str, Any] | None, current: dict[str, Any] | None, path: Any
) -> None:
    """Refuse to go on with another distillation, or towards another teacher.

    Args:
        saved: What the checkpoint says; None for no distillation.
        current: What the fit has; without the teacher where that is not known yet.
        path: Of the checkpoint.

    Raises:
        ConfigurationError: Says what differs, and what to do.
    """
    if saved is None or current is None:
        if saved is not current:
            had, has = ("with", "without") if current is None else ("without", "with")
            raise ConfigurationError(
                f"the checkpoint {str(path)!r} was written {had} distillation, and this fit is {has} one; resume with "
                "the same configuration, or start a new fit from the weights alone"
            )
        return
    differing = [
        f"distillation.{key} was {saved.get(key)!r} and is {current[key]!r}"
        for key in current
        if key != "teacher" and saved.get(key) != current[key]
    ]
    if differing:
        raise ConfigurationError(
            f"the checkpoint {str(path)!r} was written with another distillation: {'; '.join(differing)}. Resume with "
            "the same configuration, or start a new fit from the weights alone"
        )
    if "teacher" in current and saved.get("teacher") != current["teacher"]:
        raise ConfigurationError(
            f"the checkpoint {str(path)!r} was trained towards a teacher with the digest {saved.get('teacher')}, and "
            f"the teacher of this fit has {current['teacher']}. Checkpoints hold no teacher: load the same float "
            "weights as at the beginning into the LightningModule before the fit (those of the checkpoint come after), "
            "or give them as Distillation(teacher=...)"
        )
