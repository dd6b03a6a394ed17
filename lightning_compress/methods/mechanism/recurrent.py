"""Recurrent layers whose weights are parametrized."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize


def refresh_flat_weights(module: nn.Module) -> None:
    """Let a recurrent layer compute its weights once for each forward pass.

    torch 2.14 reads them into a list beforehand, finds before each pass that computed weights are others than those in
    the list, and reads each of them four times over. For the length of a pass they are computed once.
    """
    if _enter in module._forward_pre_hooks.values():
        return
    module.register_forward_pre_hook(_enter)
    module.register_forward_hook(_leave, always_call=True)


def drop_flat_weight_hooks(module: nn.Module) -> None:
    """Remove what `refresh_flat_weights` added, once the weights are plain parameters again."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key, hook in list(hooks.items()):
            if hook in (_enter, _leave):
                del hooks[key]
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()


def _enter(module: nn.Module, _: Any) -> None:
    if torch._C._get_tracing_state() is not None:
        # Caching cannot be traced; what is traced computes its weights again, to the same values.
        return
    context: AbstractContextManager[None] = parametrize.cached()
    context.__enter__()
    module.__dict__.setdefault("_weight_caches", []).append(context)


def _leave(module: nn.Module, _: Any, __: Any) -> None:
    caches = module.__dict__.get("_weight_caches")
    if caches:
        caches.pop().__exit__(None, None, None)
