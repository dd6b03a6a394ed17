"""The other processes of a job, which Lightning starts with its first fit and which end with the job."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import torch.distributed as dist
from lightning.fabric.utilities.rank_zero import rank_zero_only


def is_first() -> bool:
    """Whether this is the process that decides, writes and prints; asked before there is a group, too."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def is_alone() -> bool:
    """Whether there is no group of processes, or not yet."""
    return not (dist.is_available() and dist.is_initialized())


def end_processes(launcher: Any) -> None:
    """End the processes that a launcher has started, without ending this one.

    They may wait for this process in an operation that no signal but SIGKILL interrupts. Lightning 2.6 watches them
    from a thread that takes their end for a failure and kills this process; with an empty list it has nothing to watch.

    Args:
        launcher: Of the strategy of the job's first fit; None where no fit has begun.
    """
    processes: list[subprocess.Popen[bytes]] = getattr(launcher, "procs", [])
    watched = list(processes)
    processes.clear()
    for process in watched:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    for process in watched:
        process.wait()
