"""Batch norm that keeps its statistics for the last part of a fit."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_compress.methods.mechanism.method import Companion
from lightning_compress.methods.milestones import Milestones, OnMilestones


class BatchNormFreezing(OnMilestones, Companion):
    """From the fourth milestone on, batch norm normalizes by its running statistics and leaves them as they are.

    Whatever mode the module is put into: so the numbers of training are those of evaluation (Krishnamoorthi, arXiv
    1806.08342). What is frozen follows from the number of steps alone.

    Args:
        module: The module whose batch norm it is.
        milestones: When.
    """

    def __init__(self, module: nn.Module, milestones: Milestones) -> None:
        super().__init__()
        self.milestones = milestones
        # In a list, so that they are no part of this module.
        self._layers = [
            part
            for part in module.modules()
            if isinstance(part, _BatchNorm) and part.track_running_stats and part.running_mean is not None
        ]

    def advance(self, step: int) -> None:
        """Freeze once the milestone has passed; a checkpoint of an earlier step undoes it."""
        frozen = self.milestones.freezes(step)
        for layer in self._layers:
            if not frozen:
                _thaw(layer)
            elif _normalize_by_running_statistics not in layer._forward_pre_hooks.values():
                layer.register_forward_pre_hook(_normalize_by_running_statistics)

    def remove(self, module: nn.Module) -> None:
        """Take the hooks out of a copy of the module."""
        for part in module.modules():
            _thaw(part)


def _normalize_by_running_statistics(layer: nn.Module, _: Any) -> None:
    if layer.training:
        layer.training = False


def _thaw(layer: nn.Module) -> None:
    for key, hook in list(layer._forward_pre_hooks.items()):
        if hook is _normalize_by_running_statistics:
            del layer._forward_pre_hooks[key]
