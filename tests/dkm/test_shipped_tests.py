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
SWAP_PALETTIZER = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
import coremltools.optimize.torch.palettization as package
from coremltools.optimize.torch.palettization import palettizer
from coremltools.test.optimize.torch.palettization import palettization_utils
from coremltools_adapter import DKMPalettizer, FakePalettize, PalettizerModules

package.DKMPalettizer = palettizer.DKMPalettizer = DKMPalettizer
package.FakePalettize = FakePalettize
palettization_utils.DKMPalettizerModulesRegistry = PalettizerModules
"""
LEFT_OUT = [
    # It asserts that a model finalized before its first forward is left without a palette, the trap itself.
    "test_palettization_api.py::test_finalize_without_forward",
    # Activations are a technique of their own: the key is refused with the name of that.
    "test_palettization_api.py::test_quantize_activations_flag",
    # coremltools logs a warning and leaves the layer dense; the sizes are refused here, with the valid ones.
    "test_palettization_api.py::test_prepare_palettizer_simple_model_cluster_dim_mil_check[cluster_dim_expected_std_outputs1]",
    "test_palettization_api.py::test_prepare_palettizer_simple_model_block_size_mil_check[block_size_expected_std_outputs0]",
    # It asserts observers of torch.ao on every layer, which there are none of.
    *(
        f"test_palettizer.py::test_fake_palettize_insertion_weighted_modules[module{index}]"
        for index in range(6)
    ),
    # Projections of six weights, which a palette of sixteen is refused for; coremltools asserts that in a forward pass.
    "test_palettizer.py::test_fake_palettize_insertion_multihead_attention[True-1-1]",
    "test_palettizer.py::test_fake_palettize_insertion_multihead_attention[False-1-1]",
]


@pytest.mark.parametrize(
    ("swap", "left_out"),
    [(SWAP_FAKE_PALETTIZE, []), (SWAP_PALETTIZER, LEFT_OUT)],
    ids=["FakePalettize", "DKMPalettization"],
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
        command += ["--deselect", f"palettization/{name}"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert f"{43 - len(left_out)} passed" in result.stdout
