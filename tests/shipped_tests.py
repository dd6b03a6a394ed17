"""The tests that coremltools ships with itself, run with ours in the place of its own classes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import coremltools

REPOSITORY = Path(__file__).resolve().parents[1]
SHIPPED = Path(coremltools.__file__).parent / "test" / "optimize" / "torch"


def run_shipped_tests(
    folder: Path, area: str, files: Sequence[str], swap: str, *, left_out: Sequence[str] = (), only: str = ""
) -> str:
    """Run files of coremltools' tests in a process of their own, and assert that none fails.

    Args:
        folder: Where the process may write.
        area: The folder of the tests: "palettization", "pruning" or "quantization".
        files: Names of files in it.
        swap: Python that puts ours in the place of coremltools' classes, before the tests are collected.
        left_out: Tests that are not run, as "file::test".
        only: An expression that chooses among the tests, as pytest's `-k` takes it.

    Returns:
        The last line that pytest printed: how many tests passed.
    """
    (folder / "swap.py").write_text(swap)
    command = [sys.executable, "-m", "pytest", "-p", "swap", "-p", "no:cacheprovider", "-q", "-W", "ignore"]
    command += ["-c", os.devnull, "--rootdir", str(SHIPPED), *(str(SHIPPED / area / name) for name in files)]
    for name in left_out:
        command += ["--deselect", f"{area}/{name}"]
    if only:
        command += ["-k", only]
    paths = os.pathsep.join([str(folder), str(REPOSITORY)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    return result.stdout.splitlines()[-1]
