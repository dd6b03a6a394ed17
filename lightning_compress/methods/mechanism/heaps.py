"""Memory that threads have freed, given back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""`M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD` of glibc's malloc.h."""

_LARGE = 1 << 20
"""Blocks of so many bytes are worth a system call each."""

_HIGHEST = 32 << 20
"""To which glibc itself raises the threshold while networks run, and that of trimming to twice as much."""

_CHOSEN = ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables by which a user has decided for the process."""


@contextlib.contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Within this, large blocks of memory go back to the system when they are freed, whichever thread frees them.

    glibc 2.36 gives each thread a heap of its own (malloc's arenas), from which it takes blocks of up to 32 MiB once a
    few of that size were freed, and which keeps what is freed there. Forward passes in threads of their own, each of
    which waits for the others, so held 0.8 GB that nobody used, beside 1.0 GB in use (16 batches of an SSD on
    ResNet18). Other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _CHOSEN):
        yield
        return
    heap = ctypes.CDLL(None)
    heap.mallopt(_MMAP_THRESHOLD, _LARGE)
    try:
        yield
    finally:
        # What is given once no longer adapts: both become what they would have been.
        heap.mallopt(_MMAP_THRESHOLD, _HIGHEST)
        heap.mallopt(_TRIM_THRESHOLD, 2 * _HIGHEST)
