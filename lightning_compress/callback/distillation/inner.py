"""Inner modules by name, and what they return while the module around them runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_compress.callback.distillation.options import Loss
from lightning_compress.callback.distillation.outputs import kept
from lightning_compress.errors import ModuleNotFoundInModelError, nearest


def losses_by_name(patterns: Mapping[str, Loss], network: nn.Module, teacher: nn.Module) -> dict[str, Loss]:
    """Find the inner modules that are meant; of several patterns for one name the first counts.

    Args:
        patterns: Regular expressions of whole dotted names, and the losses of what they match.
        network: The module to compress.
        teacher: Its teacher, which must have the same names.

    Raises:
        ModuleNotFoundInModelError: A pattern matches nothing, or what it matches is not in the teacher.
    """
    names = [
        name for name, _ in network.named_modules() if name and "parametrizations" not in name.split(".")
    ]
    theirs = {name for name, _ in teacher.named_modules()}
    found: dict[str, Loss] = {}
    for pattern, loss in patterns.items():
        matched = [name for name in names if re.fullmatch(pattern, name)]
        if not matched:
            close = nearest(pattern, names)
            raise ModuleNotFoundInModelError(
                f"modules of Distillation: {pattern!r} matches no module within the compressed one; names are regular "
                "expressions matched against whole dotted names, and of "
                f"{len(names)} {f'the nearest are {close}' if close else f'the first are {names[:5]}'}"
            )
        missing = [name for name in matched if name not in theirs]
        if missing:
            raise ModuleNotFoundInModelError(
                f"modules of Distillation: {pattern!r} matches {missing[:3]}, which the teacher, "
                f"{type(teacher).__name__}, does not have; inner modules are paired by name"
            )
        for name in matched:
            found.setdefault(name, loss)
    return found


def uncompiled(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook that runs as Python, in modules that are compiled too."""
    disabled: Callable[..., None] = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
    return disabled


class InnerOutputs:
    """What inner modules have returned, call by call, since it was last forgotten.

    Args:
        module: The module around them.
        names: Theirs within it.

    Attributes:
        found: By name, in the order of the calls.
    """

    def __init__(self, module: nn.Module, names: Iterable[str]) -> None:
        self._module = module
        self._names = tuple(names)
        self.found: dict[str, list[Any]] = {}
        self.forget()
        # The same functions each time: what torch.compile has compiled calls those that it has seen.
        self._hooks = {name: self._hook(name) for name in self._names}

    def forget(self) -> None:
        """Begin anew."""
        self.found = {name: [] for name in self._names}

    def listen(self) -> list[RemovableHandle]:
        """Keep what they return, until the handles are removed."""
        # Looked up each time: Lightning exchanges batch norms for synchronized ones after callbacks are set up.
        return [
            self._module.get_submodule(name).register_forward_hook(hook, prepend=True)
            for name, hook in self._hooks.items()
        ]

    def _hook(self, name: str) -> Callable[..., None]:
        # A function of its own, which copies of a module share, and not a method, which they would copy with all this.
        def hook(module: nn.Module, arguments: Any, outputs: Any) -> None:
            self.found[name].append(kept(outputs))

        return uncompiled(hook)
