"""From a module to the graph that coremltools converts: the one place where a model is traced."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from lightning_compress.copying import copy_whole
from lightning_compress.coreml.structure import output_names, returning_tensors, take_apart
from lightning_compress.coreml.workarounds import replaced
from lightning_compress.errors import CompressionError, TraceError

_TOLERANCE = 1e-3
"""Largest difference between the module and its trace, relative to the largest output."""


_MESSAGE = 500
"""Characters that are kept of another library's message."""


@dataclass(frozen=True)
class Traced:
    """A traced module with what is known of its inputs and outputs.

    Attributes:
        module: The traced module.
        inputs: What it was traced on.
        outputs: The tensors that it returned.
        output_names: Their keys, where it returned a dictionary or a dataclass.
    """

    module: torch.jit.ScriptModule
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    output_names: Sequence[str] | None = None


@torch.no_grad()
def convertible_copy(module: nn.Module) -> nn.Module:
    """A copy on the CPU, in float32 and evaluation mode; the original stays as it is."""
    return _copy(module).to("cpu").float().eval().requires_grad_(False)


def _copy(module: nn.Module) -> nn.Module:
    # coremltools 9's pruner gives modules a `__getstate__` of their own, so that they can be copied while
    # their weight is computed from a mask. It stays after finalize, and on Python 3.11 and later a copy still
    # hands out the state of the module that it was copied from: weights from before whatever was done to the
    # copy.
    own = [part for part in module.modules() if "__getstate__" in vars(part) and not _computes_weights(part)]
    methods = [vars(part).pop("__getstate__") for part in own]
    try:
        return copy_whole(module)
    finally:
        for part, method in zip(own, methods, strict=True):
            vars(part)["__getstate__"] = method


def _computes_weights(module: nn.Module) -> bool:
    return any(isinstance(value, Tensor) and not value.is_leaf for value in vars(module).values())


def trace(module: nn.Module, inputs: tuple[Tensor, ...], *, name: str | None = None) -> Traced:
    """Trace `module` on `inputs` and check that the trace computes the same.

    The module is used as it is: see `convertible_copy`. coremltools converts what `torch.jit.trace` makes of
    every model; what `torch.export` makes, it converts for some (not for those that `LinearQuantizer` has
    prepared). When that changes, this is the function to change.

    The check compares outputs on the example inputs and on the same values in reverse order, so that a
    forward whose course depends on its inputs' values is told from one that only looks so to torch's tracer,
    whose own warnings are left out.

    Args:
        module: A module on the CPU, in evaluation mode.
        inputs: What to call it with, by position: see `as_tuple` and `by_position`.
        name: What errors call the module; its class if not given.

    Raises:
        TraceError: If the module cannot be traced, gives anything but tensors, or its trace computes
            something else.
    """
    name = name or type(module).__name__
    with (
        torch.no_grad(),
        without_autocast(),
        _without_fused_attention(),
        _without_checkpointing(),
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        try:
            returned = module(*inputs)
            outputs, names = take_apart(returned, name), output_names(returned, name)
            module = returning_tensors(module, returned, name)
            # torch compares two traces node by node, which fails for torchvision's vision transformers
            # although both compute the same; the comparison of outputs is the one that matters.
            traced = torch.jit.trace(module, inputs, check_trace=False)  # type: ignore[no-untyped-call]
            _require_equal(outputs, take_apart(traced(*inputs), name), name)
        except CompressionError:
            raise
        except Exception as error:
            raise TraceError(f"{name} cannot be traced on its example inputs: {_shortened(error)}") from error
        _check_on_other_values(module, traced, inputs, name)
    return Traced(traced, inputs, tuple(outputs), names)


@contextmanager
def without_autocast() -> Iterator[None]:
    """Switch automatic mixed precision off, which would find its way into the traced graph."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Trace attention as the operations it is made of; coremltools has no conversion for torch's fused one."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _without_checkpointing() -> Iterator[None]:
    """Run what `torch.utils.checkpoint` runs again in backward as it stands: torch 2.14 cannot trace its function."""

    class Direct:
        @staticmethod
        def apply(function: Callable[..., Any], preserve_rng_state: bool, *inputs: Any) -> Any:
            return function(*inputs)

    with replaced(checkpoint, "CheckpointFunction", Direct):
        yield


def _check_on_other_values(
    module: nn.Module, traced: torch.jit.ScriptModule, inputs: tuple[Tensor, ...], name: str
) -> None:
    others = tuple(value.flatten().flip(0).view(value.shape) for value in inputs)
    try:
        expected = take_apart(module(*others), name)
    except Exception:
        # Not every module takes its inputs' values in any order; nothing can be compared then.
        return
    try:
        found = take_apart(traced(*others), name)
    except Exception as error:
        raise TraceError(
            f"the trace of {name} fails on inputs other than the example inputs: {error}"
        ) from error
    _require_equal(expected, found, name)


def _shortened(error: Exception) -> str:
    """What an error says, without the numbers of a whole tensor that torch may print."""
    text = str(error)
    return text if len(text) <= _MESSAGE else f"{text[:_MESSAGE]} ..."


def _require_equal(expected: Sequence[Tensor], found: Sequence[Tensor], name: str) -> None:
    for index, (one, other) in enumerate(zip(expected, found, strict=True)):
        if one.shape != other.shape:
            raise TraceError(
                f"output {index} of {name} has shape {tuple(one.shape)}, and {tuple(other.shape)} when traced: "
                "its shape depends on the values of its inputs"
            )
        first, second = one.double(), other.double()
        finite = first.isfinite() & second.isfinite()
        same = torch.equal(first[~finite].nan_to_num(), second[~finite].nan_to_num())
        difference = (first - second)[finite].abs().max().item() if finite.any() else 0.0
        scale = max(first[finite].abs().max().item() if finite.any() else 0.0, 1e-6)
        if not same or difference > _TOLERANCE * scale:
            raise TraceError(
                f"output {index} of {name} differs by {difference:.3g} (largest value {scale:.3g}) from that of its "
                "trace: its forward takes another course for other inputs, depends on something other than its "
                "inputs, or is random in evaluation mode"
            )
