"""The pruning tests that coremltools ships pass with our masks, schedules and metadata in the place of its own.

Its conversion tests run on macOS only, and `LayerwiseCompressor`'s concern another class.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import coremltools

REPOSITORY = Path(__file__).parents[2]
SHIPPED = Path(coremltools.__file__).parent / "test" / "optimize" / "torch"
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


def test_coremltools_own_tests_pass(tmp_path):
    (tmp_path / "swap.py").write_text(SWAP)
    command = [sys.executable, "-m", "pytest", "-p", "swap", "-p", "no:cacheprovider", "-q", "-W", "ignore"]
    command += [
        "-c",
        os.devnull,
        "--rootdir",
        str(SHIPPED),
        *(str(SHIPPED / "pruning" / name) for name in FILES),
    ]
    for name in LEFT_OUT:
        command += ["--deselect", f"pruning/{name}"]
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert f"{PASSED} passed" in result.stdout
    assert not re.search("failed|error|skipped", result.stdout)
