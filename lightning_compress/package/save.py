"""Writes packages whole or not at all.

A package is a directory, and a directory cannot replace another in one step. A new package is therefore
written next
to the old one, brought to the disk, and exchanged with it: by the system's atomic exchange where there is one
(Linux, macOS), or else by two renames. Whoever looks sees the old package or the new one, and an export that
dies at any moment leaves the old one. What it leaves beside it, the next save clears away.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from lightning_compress.errors import ConfigurationError, PackageError
from lightning_compress.package.versions import exclusive, replaced_path

SUFFIX = ".mlpackage"

_PARTIAL = ".partial"
"""Ends the name of a folder in which a package is being written."""


class Saveable(Protocol):
    """What can write itself as a package, as coremltools' `MLModel` can."""

    def save(self, path: str) -> None:
        """Write a package to a path where nothing is."""


def save_package(model: Saveable, path: str | Path, check: Callable[[Path], None] | None = None) -> Path:
    """Write `model` to `path`, replacing an earlier package in one step.

    Args:
        model: An ML Program, or a pipeline with one.
        path: Where to write it, ending in `.mlpackage`; missing parent folders are made.
        check: Called with the written package before it takes its place; what it raises leaves an earlier
            one there.

    Returns:
        The absolute path.

    Raises:
        PackageError: If the package cannot be written, in which case an earlier one is still in place.
    """
    destination = resolve(path)
    require_folder(destination)
    try:
        with exclusive(destination):
            _clear_leftovers(destination)
            folder = Path(
                tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=_PARTIAL, dir=destination.parent)
            )
            try:
                written = folder / destination.name
                model.save(str(written))
                if check is not None:
                    check(written)
                _make_readable(written, 0o777)
                _flush(folder)
                _replace(destination, written)
                _flush_entry(destination.parent)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise _not_written(destination, error) from error
    return destination


def require_folder(destination: Path) -> None:
    """Make the folder that a package is to lie in, and those above it.

    Raises:
        PackageError: If that is not possible.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(destination, error) from error


def _not_written(destination: Path, error: OSError) -> PackageError:
    return PackageError(
        f"the package {str(destination)!r} cannot be written ({error}); "
        "a package that was there before is still in place"
    )


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step: whoever reads it sees all of it or what was there before.

    Args:
        path: The file; missing folders above it are made.
        content: What it shall hold, which is on the disk when this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PARTIAL, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _make_readable(Path(partial), 0o666)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def resolve(path: str | Path) -> Path:
    """The absolute path of a package to write, links followed.

    Raises:
        ConfigurationError: If it does not end in `.mlpackage`.
    """
    expanded = Path(path).expanduser()
    if expanded.suffix != SUFFIX:
        raise ConfigurationError(
            f"path={str(path)!r} does not end in {SUFFIX!r}; "
            f"did you mean {str(expanded.with_suffix(SUFFIX))!r}?"
        )
    return Path(os.path.realpath(expanded))


def require_writable(path: str | Path) -> None:
    """Find out now, before hours of training, whether a package could be written to `path`.

    An earlier package that a killed process has left renamed gets its name back.

    Raises:
        ConfigurationError: If the path has another suffix, is a file, or its folder cannot be written.
    """
    destination = resolve(path)
    if destination.exists() and not destination.is_dir():
        raise ConfigurationError(
            f"path={str(path)!r} is a file; a package is a folder. Remove it or name another."
        )
    folder = destination.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with exclusive(folder / destination.name):
            # Permission bits say too little: the superuser ignores them, and a read-only file system ignores
            # both.
            os.rmdir(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=_PARTIAL, dir=folder))
            if folder == destination.parent:
                _clear_leftovers(destination)
    except OSError as error:
        raise ConfigurationError(
            f"path={str(path)!r}: the folder {str(folder)!r} cannot be written ({error.strerror or error})"
        ) from error


def _clear_leftovers(destination: Path) -> None:
    replaced = replaced_path(destination)
    if replaced.exists():
        if destination.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            os.rename(replaced, destination)
    prefix = f".{destination.name}."
    for entry in list(destination.parent.iterdir()):
        if entry.name.startswith(prefix) and entry.name.endswith(_PARTIAL):
            shutil.rmtree(entry, ignore_errors=True)


def _make_readable(path: Path, mode: int) -> None:
    """Give what was made with `tempfile`, which is for its maker's eyes alone, the permissions of any new one."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(mode & ~mask)


def _replace(destination: Path, written: Path) -> None:
    if not destination.exists():
        os.rename(written, destination)
    elif not _exchange(destination, written):
        replaced = replaced_path(destination)
        os.rename(destination, replaced)
        try:
            os.rename(written, destination)
        except OSError:
            os.rename(replaced, destination)
            raise
        shutil.rmtree(replaced, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False where the system has no such step."""
    library = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(one), os.fsencode(other)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        at_working_directory, exchange = -100, 2
        return bool(
            library.renameat2(at_working_directory, first, at_working_directory, second, exchange) == 0
        )
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        swap = 2
        return bool(library.renamex_np(first, second, swap) == 0)
    return False


def _flush(folder: Path) -> None:
    """Bring a folder and all that is in it to the disk."""
    for entry in sorted(folder.rglob("*"), reverse=True):
        _flush_entry(entry)
    _flush_entry(folder)


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
