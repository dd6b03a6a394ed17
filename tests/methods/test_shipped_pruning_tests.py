"""The pruning tests that coremltools ships pass with our masks, schedules and metadata in the place of its own.

Its conversion tests run on macOS only, and `LayerwiseCompressor`'s concern another class.
"""

from __future__ import annotations

import re

import pytest

from tests.shipped_tests import run_shipped_tests

FILES = ["test_magnitude_pruner.py", "test_pruning_scheduler.py", "test_base_pruner.py"]
PASSED = 39

SWAP = """
import coremltools.optimize.torch.pruning as package
from coremltools.optimize.torch.pruning import _utils
from lightning_compress.methods.magnitude_masks import ratio_mask
from tests.methods.coremltools_pruner import MagnitudePruner

package.MagnitudePruner = MagnitudePruner
_utils.n_m_mask = lambda weights, nm, dim=1: ratio_mask(weights, *nm, along_input=dim == 1)
"""

LEFT_OUT = [
    # These look at coremltools' configuration classes alone, which we have no use for: the values that they refuse,
    # ours refuse in test_configuration.py and test_sparsity_schedule.py.
    "test_magnitude_pruner.py::test_magnitude_pruner_n_m_ratio_param_usage",
    "test_magnitude_pruner.py::test_magnitude_pruner_config_global_config_set",
    "test_magnitude_pruner.py::test_polynomial_scheduler_range_str",
    "test_pruning_scheduler.py::test_polynomial_decay_initialization_failure",
]


@pytest.mark.slow
def test_coremltools_own_tests_pass(tmp_path):
    summary = run_shipped_tests(tmp_path, "pruning", FILES, SWAP, left_out=LEFT_OUT)
    assert summary.startswith(f"{PASSED} passed")
    assert not re.search("failed|error|skipped", summary)
