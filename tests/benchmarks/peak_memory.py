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
        return result, _held("VmHWM") - before
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = function()
    return result, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - highest) / 2**20


def _held(what: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024
