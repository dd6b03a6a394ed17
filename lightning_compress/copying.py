"""Copies of modules that hold what cannot be copied, such as tensors of their last forward pass."""

from __future__ import annotations

import copy
import functools
import types
from collections import deque
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_compress.errors import CompressionError

ModuleType = TypeVar("ModuleType", bound=nn.Module)

_SHARED_ANYWAY = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
    str,
    bytes,
    int,
    float,
    complex,
    type(None),
)
"""What a deep copy shares with its original."""

_CONTAINERS = (dict, list, tuple, set, frozenset, deque)


@torch.no_grad()
def copy_whole(module: ModuleType) -> ModuleType:
    """A deep copy of a module, whatever it keeps beside its parameters and buffers.

    torch copies no tensor that is the result of a computation, such as an auxiliary loss that a forward has left
    behind: it comes along as its value. What Python cannot copy, such as a generator, a lock or an open file, is shared
    with the original; no network computes with it. Of a module that holds this one in turn, as a LightningModule whose
    method is a hook, only modules, tensors and containers are copied, and not the Trainer.

    Raises:
        CompressionError: If the module cannot be copied even so; names the part.
    """
    memo: dict[int, Any] = {}
    reachable = _Reachable(module, memo)
    reachable.put_tensors_aside()
    try:
        return copy.deepcopy(module, dict(memo))
    except Exception:
        reachable.share_what_cannot_be_copied()
    try:
        return copy.deepcopy(module, dict(memo))
    except Exception as error:
        raise CompressionError(
            f"{type(module).__name__} cannot be copied, and a copy is what is finalized and exported: {error}"
            f"{_culprit(module, memo)}"
        ) from error


class _Reachable:
    """All that a deep copy of a module would come to.

    Args:
        module: The module.
        memo: Gets what takes the place of values in the copy, by identity.
    """

    def __init__(self, module: nn.Module, memo: dict[int, Any]) -> None:
        self._module = module
        self._memo = memo
        self._inside = {id(part) for part in module.modules()}
        # Those found last stand deepest.
        self._others: list[Any] = []

    def put_tensors_aside(self) -> None:
        """Enter the values of all results of computations, and what is shared of modules that hold this one."""
        seen: set[int] = set()
        waiting: list[Any] = [self._module]
        while waiting:
            value = waiting.pop()
            if isinstance(value, _SHARED_ANYWAY) or id(value) in seen or id(value) in self._memo:
                continue
            seen.add(id(value))
            if isinstance(value, Tensor):
                if not value.is_leaf:
                    self._memo[id(value)] = value.detach().clone()
            elif self._is_owner(value):
                for part in vars(value).values():
                    if not isinstance(part, (nn.Module, Tensor, *_CONTAINERS)):
                        self._memo[id(part)] = part
                waiting.extend(vars(value).values())
            elif not isinstance(value, torch.jit.ScriptModule):
                if not isinstance(value, (nn.Module, *_CONTAINERS)):
                    self._others.append(value)
                waiting.extend(_parts(value))

    def share_what_cannot_be_copied(self) -> None:
        """Enter as themselves all objects, but for modules and containers, whose copy fails."""
        for value in reversed(self._others):
            if not _can_be_copied(value, self._memo):
                self._memo[id(value)] = value

    def _is_owner(self, value: Any) -> bool:
        if not isinstance(value, nn.Module) or id(value) in self._inside:
            return False
        return any(part is self._module for part in value.modules())


def _can_be_copied(value: Any, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:
        return False
    return True


def _parts(value: Any) -> list[Any]:
    """What a deep copy goes on to copy."""
    parts: list[Any] = list(getattr(value, "__dict__", {}).values())
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        names = (slots,) if isinstance(slots, str) else slots
        parts += [
            getattr(value, n, None)
            for n in names
            if isinstance(vars(kind).get(n), types.MemberDescriptorType)
        ]
    if isinstance(value, dict):
        parts += [*value.keys(), *value.values()]
    elif isinstance(value, _CONTAINERS):
        parts += value
    elif isinstance(value, types.MethodType):
        parts.append(value.__self__)
    elif isinstance(value, functools.partial):
        parts += [value.func, *value.args, *value.keywords.values()]
    return parts


def _culprit(module: nn.Module, memo: dict[int, Any]) -> str:
    """The first attribute of a part that cannot be copied by itself, in words, or nothing."""
    for name, part in module.named_modules():
        for attribute, value in vars(part).items():
            if attribute in ("_modules", "_parameters", "_buffers"):
                continue
            if not _can_be_copied(value, memo):
                where = f"{name}.{attribute}".lstrip(".")
                return f". It is the attribute {where!r}, of type {type(value).__name__}"
    return ""
