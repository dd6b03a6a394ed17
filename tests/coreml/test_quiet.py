from __future__ import annotations

import subprocess
import sys


def test_importing_the_package_says_nothing():
    result = subprocess.run(
        [sys.executable, "-c", "import lightning_compress.coreml"], capture_output=True, text=True, check=True
    )
    assert result.stdout == ""
    assert result.stderr == ""


def test_the_area_knows_neither_lightning_nor_hydra():
    code = "import sys, lightning_compress.coreml as _; print(*{'lightning', 'hydra', 'omegaconf'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
