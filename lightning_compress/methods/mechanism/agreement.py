"""Does a finalized module compute what the prepared one does in evaluation?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from lightning_compress.errors import VerificationError

_ROUNDING = 1e-4
"""Largest difference, relative to the largest value, that rounding in another order makes in float32."""


@dataclass(frozen=True)
class Call:
    """What a module is called with.

    Attributes:
        arguments: Its inputs by position.
        keywords: Its inputs by name.
    """

    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


@torch.no_grad()
def require_agreement(trained: nn.Module, finalized: nn.Module, calls: Sequence[Call]) -> None:
    """Compare outputs before and after finalizing.

    Args:
        trained: A copy of the prepared module, on the CPU, in float32 and evaluation mode.
        finalized: What was made of it.
        calls: Inputs to compare on.

    Raises:
        VerificationError: They differ beyond rounding; names the first layer that does.
    """
    for number, call in enumerate(calls):
        with torch.random.fork_rng(devices=[]):
            expected, seen = _run(trained, call)
        with torch.random.fork_rng(devices=[]):
            found, seen_finalized = _run(finalized, call)
        difference = _difference(expected, found)
        if difference <= _ROUNDING:
            continue
        first = _first_difference(seen, seen_finalized)
        raise VerificationError(
            f"the finalized module does not compute what was trained: on input {number} its outputs differ by "
            f"{difference:.2%} of the largest value. The first layer that differs is {first}. A module that is random "
            "in evaluation, or keeps state from one call to the next, cannot be compared"
        )


def _run(module: nn.Module, call: Call) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    with _recorded(module) as seen:
        outputs = module(*call.arguments, **call.keywords)
    return _tensors(outputs), seen


@contextmanager
def _recorded(module: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """The outputs of every submodule by name, in the order in which they end."""
    seen: dict[str, list[Tensor]] = {}

    def recorder(name: str) -> Any:
        def record(part: nn.Module, inputs: Any, output: Any) -> None:
            seen.setdefault(name, []).extend(tensor.clone() for tensor in _tensors(output))

        return record

    handles = [
        part.register_forward_hook(recorder(name))
        for name, part in module.named_modules()
        if name and "parametrizations" not in name.split(".") and not isinstance(part, torch.jit.ScriptModule)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _first_difference(expected: Mapping[str, list[Tensor]], found: Mapping[str, list[Tensor]]) -> str:
    for name, tensors in expected.items():
        if name in found and _difference(tensors, found[name]) > _ROUNDING:
            return repr(name)
    return "the module itself"


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest value of the tensor it lies in."""
    if len(expected) != len(found) or any(a.shape != b.shape for a, b in zip(expected, found, strict=True)):
        return float("inf")
    largest = 0.0
    for one, other in zip(expected, found, strict=True):
        first, second = one.double(), other.double()
        same = (first == second) | (first.isnan() & second.isnan())
        distance = torch.where(same, 0.0, (first - second).abs()).nan_to_num(nan=float("inf"))
        if distance.numel():
            finite = first[first.isfinite()].abs()
            scale = max(float(finite.max()) if finite.numel() else 0.0, 1e-6)
            largest = max(largest, float(distance.max()) / scale)
    return largest


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(outputs)[0] if isinstance(leaf, Tensor)]
