"""The palettization tests that coremltools ships pass with our classes in the place of its own.

Its conversion tests run on macOS only, and its post-training and sensitive k-means tests concern other classes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import coremltools
import pytest

SHIPPED = Path(coremltools.__file__).parent / "test" / "optimize" / "torch"
FILES = ["test_palettizer.py", "test_palettization_api.py", "test_palettization_utils.py"]

SWAP_FAKE_PALETTIZE = """
import coremltools.optimize.torch.palettization as package
from coremltools.optimize.torch.palettization import fake_palettize, palettizer
from lightning_compress.dkm import FakePalettize

package.FakePalettize = fake_palettize.FakePalettize = palettizer._FakePalettize = FakePalettize
"""


@pytest.mark.parametrize(
    ("swap", "left_out"),
    [
        (SWAP_FAKE_PALETTIZE, []),
        # It asserts that a model finalized before its first forward is left without a palette, the trap itself.
        (SWAP_PALETTIZER, ["test_finalize_without_forward"]),
    ],
    ids=["FakePalettize", "DKMPalettizer"],
)
def test_coremltools_own_tests_pass(tmp_path, swap, left_out):
    (tmp_path / "swap.py").write_text(swap)
    command = [sys.executable, "-m", "pytest", "-p", "swap", "-p", "no:cacheprovider", "-q", "-W", "ignore"]
    command += [
        "-c",
        os.devnull,
        "--rootdir",
        str(SHIPPED),
        *(str(SHIPPED / "palettization" / name) for name in FILES),
    ]
    for name in left_out:
        command += ["--deselect", f"palettization/test_palettization_api.py::{name}"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert f"{43 - len(left_out)} passed" in result.stdout
