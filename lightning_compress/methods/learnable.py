"""Learnable quantization whose parameters survive loading.

coremltools 9.0's `LearnableFakeQuantize._load_from_state_dict` replaces `scale` and `zero_point` by new Parameters,
which an optimizer built before no longer holds, and makes a frozen zero point trainable.
"""

from __future__ import annotations

import types
from typing import Any

from coremltools.optimize.torch.quantization.modules.learnable_fake_quantize import (
    LearnableFakeQuantize,
)
from torch import nn


def _load_in_place(module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    own = {name: getattr(module, name) for name in ("scale", "zero_point")}
    LearnableFakeQuantize._load_from_state_dict(module, state_dict, prefix, *args)
    for name, parameter in own.items():
        loaded = getattr(module, name)
        if loaded is not parameter and loaded.shape == parameter.shape:
            parameter.data.copy_(loaded.data)
            setattr(module, name, parameter)


def mend_learnable_loading(module: nn.Module) -> None:
    """Make every learnable fake quantization in `module` keep its Parameter objects when a state is loaded."""
    for submodule in module.modules():
        if isinstance(submodule, LearnableFakeQuantize):
            # On the instance: torch's conversion compares the class itself.
            submodule.__dict__["_load_from_state_dict"] = types.MethodType(_load_in_place, submodule)
