"""Work that one process does while the others wait for it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from lightning_compress.errors import CompressionError

Value = TypeVar("Value")

_PATIENCE = datetime.timedelta(days=1)
"""Conversion and measurement may take far longer than the timeout of the fit's own process group."""


def on_rank_zero(function: Callable[[], Value]) -> Value | None:
    """Call `function` on rank 0 alone; the others wait, and all end with its error if it fails.

    Without a process group it is an ordinary call.

    Returns:
        What `function` returned on rank 0, and `None` elsewhere.

    Raises:
        CompressionError: On the other ranks, with the message of rank 0's error, which itself is raised there.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return function()
    # NCCL has a short timeout and needs the GPU; a group of its own has neither.
    group: Any = dist.new_group(backend="gloo", timeout=_PATIENCE)
    value, failure, report = None, None, [""]
    if dist.get_rank() == 0:
        try:
            value = function()
        except Exception as error:
            failure, report = error, [f"{type(error).__name__}: {error}"]
    dist.broadcast_object_list(report, src=0, group=group)
    dist.destroy_process_group(group)
    if failure is not None:
        raise failure
    if report[0]:
        raise CompressionError(f"rank 0 failed: {report[0]}")
    return value


def from_rank_zero(function: Callable[[], Value]) -> Value:
    """As `on_rank_zero`, and give what it returned to every process.

    Args:
        function: Returns what can be pickled.
    """
    values = [on_rank_zero(function)]
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        group: Any = dist.new_group(backend="gloo", timeout=_PATIENCE)
        dist.broadcast_object_list(values, src=0, group=group)
        dist.destroy_process_group(group)
    return cast(Value, values[0])


def broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Give every process the values that rank 0 has; without a process group it does nothing.

    Args:
        tensors: The same ones in the same order on every process.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    with torch.no_grad():
        for tensor in tensors:
            if tensor.numel():
                dist.broadcast(tensor.detach(), src=0)
