"""One process at a time changes a package, and readers see one version of it, whole.

A package is replaced in one step, but it is read file by file: a reader may meet the model of one version and the
weights of the next. So readers look whether the folder they began with is still the one at the path when they are
done, and read once more if it is not. Whoever reads a package to change it holds the lock all the while.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

if sys.platform != "win32":
    import fcntl

Value = TypeVar("Value")

_ATTEMPTS = 5
"""Times that a reader tries before it asks writers to wait."""

_PAUSE = 0.02
"""Seconds for a writer that exchanges packages by two renames to get from one to the other."""

_held = threading.local()
"""The folders that this thread has locked, by process: `fork` copies what a thread holds."""


def replaced_path(package: Path) -> Path:
    """Where an earlier package is between the two renames by which systems without an exchange replace it."""
    return package.parent / f".{package.name}.replaced"


@contextlib.contextmanager
def exclusive(package: str | Path) -> Iterator[None]:
    """Let no other process, or thread, change a package for the length of a block.

    The lock is that of the folder that the package lies in, links followed; a thread may take it again. It is advice:
    only what takes it waits. Some network file systems lock no folders; each process still writes whole packages there.

    Args:
        package: Path of an `.mlpackage` folder, which need not exist. Without a folder for it there is no lock.
    """
    folder = os.path.dirname(os.path.realpath(package))
    taken: set[tuple[int, str]] = _held.__dict__.setdefault("folders", set())
    key = (os.getpid(), folder)
    if sys.platform == "win32" or key in taken:
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except (OSError, ValueError):
        # There is nothing to lock, and what is done inside says why.
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        taken.add(key)
        yield
    finally:
        taken.discard(key)
        os.close(descriptor)


def read_one_version(package: object, read: Callable[[], Value]) -> Value:
    """What `read` returns of a package that was not replaced while it read.

    Args:
        package: Path of an `.mlpackage` folder; of anything else there is only one version.
        read: Reads it; called again if the package was replaced, whatever came of it.

    Raises:
        Exception: What `read` raises of a package that stayed: `PackageError` where the package is at fault.
    """
    if not isinstance(package, (str, os.PathLike)):
        return read()
    path = os.path.expanduser(os.fspath(package))
    for _ in range(_ATTEMPTS):
        before = _identity(path)
        try:
            value = read()
        # Of two versions read as one, anything may be wrong: a file that another has not, a record cut in two.
        except Exception:
            if _identity(path) == before and not _is_between_renames(path):
                raise
            time.sleep(_PAUSE)
        else:
            if _identity(path) == before:
                return value
    with exclusive(path):
        return read()


def _identity(path: str) -> tuple[int, ...] | None:
    """What tells one version's folder from the next; a new folder may get the number of one that is gone."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _is_between_renames(path: str) -> bool:
    try:
        return not os.path.exists(path) and os.path.lexists(replaced_path(Path(os.path.realpath(path))))
    # A path that no file can have.
    except ValueError:
        return False
