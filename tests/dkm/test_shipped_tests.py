"""The palettization tests that coremltools ships pass with our classes in the place of its own.

Its conversion tests run on macOS only, and its post-training and sensitive k-means tests concern other classes.
"""

from __future__ import annotations

import pytest

from tests.shipped_tests import run_shipped_tests

FILES = ["test_palettizer.py", "test_palettization_api.py", "test_palettization_utils.py"]

SWAP_FAKE_PALETTIZE = """
import coremltools.optimize.torch.palettization as package
from coremltools.optimize.torch.palettization import fake_palettize, palettizer
from lightning_compress.dkm import FakePalettize

package.FakePalettize = fake_palettize.FakePalettize = palettizer._FakePalettize = FakePalettize
"""
SWAP_PALETTIZER = """
import coremltools.optimize.torch.palettization as package
from coremltools.optimize.torch.palettization import palettizer
from coremltools.test.optimize.torch.palettization import palettization_utils
from tests.dkm.coremltools_adapter import DKMPalettizer, FakePalettize, PalettizerModules

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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("swap", "left_out"),
    [(SWAP_FAKE_PALETTIZE, []), (SWAP_PALETTIZER, LEFT_OUT)],
    ids=["FakePalettize", "DKMPalettization"],
)
def test_coremltools_own_tests_pass(tmp_path, swap, left_out):
    summary = run_shipped_tests(tmp_path, "palettization", FILES, swap, left_out=left_out)
    assert summary.startswith(f"{43 - len(left_out)} passed")
