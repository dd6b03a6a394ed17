"""Where in a LightningModule the module to compress stands."""

from __future__ import annotations

from dataclasses import dataclass

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

from lightning_compress.errors import ConfigurationError, ModuleNotFoundInModelError, nearest


@dataclass(frozen=True)
class Placement:
    """A module inside a LightningModule.

    Attributes:
        path: Its dotted path.
        module: The module itself, without the wrapper of `torch.compile`.
    """

    path: str
    module: nn.Module

    @classmethod
    def find(cls, pl_module: L.LightningModule, path: str | None) -> Placement:
        """Find the module to compress.

        Args:
            pl_module: Where to look.
            path: Its dotted path, or `None` for the only child that has parameters.

        Raises:
            ModuleNotFoundInModelError: There is no module at the path; names the nearest.
            ConfigurationError: No path is given, and there is not exactly one child with parameters.
        """
        missing = path is None or not _has_submodule(pl_module, path)
        if missing and is_overridden("configure_model", pl_module):
            # Lightning calls it after callbacks have prepared, and documents that it may be called twice.
            pl_module.configure_model()
        if path is None:
            path = _only_child(pl_module)
        if path == "" or not _has_submodule(pl_module, path):
            raise ModuleNotFoundInModelError(_not_found(pl_module, path))
        module = pl_module.get_submodule(path)
        if isinstance(module, OptimizedModule):
            return cls(path, module._orig_mod)
        return cls(path, module)


def _not_found(pl_module: L.LightningModule, path: str) -> str:
    close = nearest(path, [name for name, _ in pl_module.named_modules() if name])
    hint = f"the nearest are {close}" if close else f"it has {[n for n, _ in pl_module.named_children()]}"
    return (
        f"module={path!r} of Compression is no module of {type(pl_module).__name__}; {hint}. A network built in "
        "LightningModule.setup is not there yet when callbacks prepare: build it in __init__ or configure_model"
    )


def _has_submodule(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _only_child(pl_module: L.LightningModule) -> str:
    owned = {name: set(child.parameters()) for name, child in pl_module.named_children()}
    # A part of one child that the module holds under a name of its own is no other child.
    candidates = [
        name for name, own in owned.items() if own and not any(own < others for others in owned.values())
    ]
    if len(candidates) != 1:
        raise ConfigurationError(
            "Compression(module=None) needs a LightningModule with one child that has parameters; "
            f"{type(pl_module).__name__} has {candidates or 'none'}; name the one to compress with module=..."
        )
    return candidates[0]
