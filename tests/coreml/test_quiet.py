from __future__ import annotations

import subprocess
import sys


def test_importing_the_area_says_nothing_and_brings_in_neither_lightning_nor_hydra():
    code = "import sys, lightning_compress.coreml as _; print(*{'lightning', 'hydra', 'omegaconf'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
    assert result.stderr == ""
