"""The wheel, built from the source distribution, holds all that is needed: with a compiler at hand and without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]

BUILD = """
import sys
from setuptools import build_meta

print(build_meta.build_{kind}(sys.argv[1]))
"""


def build(kind: str, sources: Path, folder: Path, **environment: str) -> Path:
    """Build a distribution in a process of its own, as pip and build do."""
    result = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind=kind), str(folder)],
        cwd=sources,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return folder / result.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """What the source distribution unpacks to."""
    checkout = tmp_path_factory.mktemp("checkout") / "sources"
    shutil.copytree(
        ROOT,
        checkout,
        ignore=lambda folder, names: (
            [name for name in names if name[:1] == "." or name in ("build", "outputs")]
            + [name for name in names if name.endswith((".so", ".egg-info"))]
        ),
    )
    folder = tmp_path_factory.mktemp("sdist")
    shutil.unpack_archive(build("sdist", checkout, folder), folder)
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


def held(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no compiler on this machine")
def test_with_a_compiler_it_holds_the_passes_in_c(sources, tmp_path):
    names = held(build("wheel", sources, tmp_path))
    assert [name for name in names if name.startswith("lightning_compress/dkm/native/_passes.")]


def test_without_a_compiler_it_is_built_all_the_same(sources, tmp_path):
    shutil.rmtree(sources / "build", ignore_errors=True)
    names = held(build("wheel", sources, tmp_path, CC="false"))
    assert not [name for name in names if name.startswith("lightning_compress/dkm/native/_passes.")]
    assert "lightning_compress/dkm/native/library.py" in names


def test_it_holds_every_module_and_every_configuration(sources, tmp_path):
    names = held(build("wheel", sources, tmp_path, CC="false"))
    places = {"lightning_compress": "lightning_compress", "conf": "lightning_compress/conf"}
    places["recipes"] = "lightning_compress/recipes"
    expected = {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in places.items()
        for pattern in ("*.py", "*.yaml", "*.jinja", "*.css", "py.typed")
        for path in (ROOT / folder).rglob(pattern)
    }
    assert expected - names == set()
