"""Checkpoints whose hyperparameters are objects of any class, read without running any of their code."""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def load_plainly(path: str | Path, *, mapped: bool = False) -> Any:
    """What a file of `torch.save` holds in tensors and plain types, on the CPU.

    For an object of any other class an empty one stands; nothing of its class is imported or run.

    Args:
        path: The file.
        mapped: Whether tensors are read from the disk only when they are looked at.

    Raises:
        Exception: As `torch.load` raises it.
    """
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:
        # Files from before torch 1.6 are no archives, and have no such list.
        foreign = []
    stand_ins: list[Any] = [(_stand_in(name), name) for name in foreign]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)


def why_unreadable(error: BaseException) -> str:
    """What `torch.load` says of a file, in a line; of one that is no file of torch it says a number or nothing."""
    text = str(error).strip().partition("\n")[0]
    return text if " " in text else "it is no file of torch.save, or was cut short"


class _LeftOut:
    """Stands for an object of a class that is not known to be harmless."""

    def __new__(cls, *arguments: Any, **keywords: Any) -> _LeftOut:
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        """Take whatever the object was made of."""

    def __setstate__(self, state: Any) -> None:
        """Forget it."""


def _stand_in(name: str) -> Any:
    """What is called in the place of a class: torch fills exactly lists and dictionaries with entries."""
    module, _, attribute = name.rpartition(".")
    kind = getattr(sys.modules.get(module), attribute, None)
    if kind in _EMPTY:
        return _EMPTY[kind]
    if isinstance(kind, type) and issubclass(kind, dict):
        return dict
    if isinstance(kind, type) and issubclass(kind, list):
        return list
    return type("LeftOut", (_LeftOut,), {})


def _empty_dictionary(*arguments: Any) -> dict[Any, Any]:
    return {}


def _empty_list(*arguments: Any) -> list[Any]:
    return []


_EMPTY: dict[Any, Callable[..., Any]] = {defaultdict: _empty_dictionary, deque: _empty_list}
"""What stands for classes that are called with arguments before they get their entries."""
