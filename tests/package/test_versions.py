"""Reading a package that is replaced meanwhile."""

from __future__ import annotations

import os
import struct

import pytest

from lightning_compress.errors import PackageError
from lightning_compress.package.versions import read_one_version


@pytest.mark.parametrize(
    "error",
    [PackageError("damaged"), struct.error("32 bytes"), FileNotFoundError("weights"), KeyError("main")],
)
def test_whatever_comes_of_two_versions_read_as_one_is_read_again(tmp_path, error):
    package, successor = tmp_path / "net.mlpackage", tmp_path / "successor"
    package.mkdir()
    successor.mkdir()
    calls = []

    def read():
        calls.append(None)
        if len(calls) == 1:
            os.rename(package, tmp_path / "earlier")
            os.rename(successor, package)
            raise error
        return "whole"

    assert read_one_version(package, read) == "whole"
    assert len(calls) == 2


def test_an_error_in_a_package_that_stayed_is_raised_at_once(tmp_path):
    calls = []

    def read():
        calls.append(None)
        raise struct.error("32 bytes")

    with pytest.raises(struct.error):
        read_one_version(tmp_path, read)
    assert len(calls) == 1
