"""Models that coremltools' pruner has prepared: their masks, and copies of them."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from torch.nn.utils.prune import BasePruningMethod


def copy_prepared(model: nn.Module) -> nn.Module:
    """A deep copy of a prepared model that shares nothing with it, pruned or not.

    coremltools 9.0's pruner gives each pruned module a `__getstate__` bound to that instance, which on Python 3.11
    and later makes the copy of a copy return the first one's weights; and a masked weight is no leaf of the graph, so
    it cannot be copied.
    """
    removed: list[tuple[nn.Module, str, Any]] = []
    for module in model.modules():
        names = ["__getstate__", *(hook._tensor_name for hook in pruning_hooks(module))]
        removed += [(module, name, module.__dict__.pop(name)) for name in names if name in module.__dict__]
    try:
        duplicate = copy.deepcopy(model)
    finally:
        for module, name, value in removed:
            module.__dict__[name] = value
    apply_masks(duplicate)
    return duplicate


def apply_masks(model: nn.Module) -> None:
    """Compute masked weights anew: those at hand date from the last forward, before the optimizer's last step."""
    for module in model.modules():
        for hook in pruning_hooks(module):
            hook(module, ())


def pruning_hooks(module: nn.Module) -> list[BasePruningMethod]:
    """The masks of a module, as the forward pre-hooks that apply them."""
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, BasePruningMethod)]
