"""What a process held at most while something ran."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def with_peak(function: Callable[[], Result]) -> tuple[Result, float]:
    """Call a function; what it returns, and the MiB by which memory peaked over what was held before.

    Linux forgets earlier peaks when asked. Elsewhere nothing is seen below the highest that the process ever had.
    """
    if _CLEAR.exists():
        _CLEAR.write_text("5")
        before = _held("VmRSS")
        result = function()
        return result, peak_of_process() - before
    highest = peak_of_process()
    result = function()
    return result, peak_of_process() - highest


def peak_of_process() -> float:
    """What this process has held at most since it began, or since Linux was asked to forget it, in MiB."""
    if _STATUS.exists():
        # Linux hands getrusage's figure on to a new program: it would be that of the process that started this one.
        return _held("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _held(what: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024
