"""Changes the specification of a package that is there already, and leaves everything else in it alone."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lightning_compress.package.reader import PackageContents, read_package
from lightning_compress.package.save import save_package
from lightning_compress.package.versions import exclusive, read_one_version

Value = TypeVar("Value")


def change_specification(
    package: str | Path, change: Callable[[Any], None], describe: Callable[[Path], Value]
) -> Value:
    """Read a package, change its specification, and write it in one step; no other process does so in between.

    Args:
        package: Path of an `.mlpackage` folder.
        change: Called with its `Model` message, which it changes.
        describe: Called with the path of what was written, before any other process can write another.

    Returns:
        What `describe` returns.

    Raises:
        PackageError: If the package cannot be read or written.
    """
    # Says what is wrong with the path before the lock of its folder is asked for.
    read_one_version(package, lambda: read_package(package))
    with exclusive(Path(package).expanduser()):
        contents = read_package(package)
        change(contents.specification)
        return describe(save_package(_Changed(contents), contents.path))


class _Changed:
    """The package that was read, with its specification as it is now."""

    def __init__(self, contents: PackageContents) -> None:
        self.contents = contents

    def save(self, path: str) -> None:
        source = os.path.realpath(self.contents.path)
        shutil.copytree(source, path, symlinks=True, copy_function=_linked)
        file = Path(path, self.contents.model_file.relative_to(source))
        file.unlink()
        file.write_bytes(self.contents.specification.SerializeToString())


def _linked(source: str, destination: str) -> None:
    """The same file under another name where the file system can: weights of gigabytes stay where they are."""
    try:
        os.link(source, destination)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(destination)
        shutil.copy2(source, destination)
