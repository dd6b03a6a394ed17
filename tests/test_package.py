"""What the package promises about itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import lightning_compress


@pytest.mark.parametrize(
    ("area", "above"),
    [
        ("package", ("runtime", "coreml", "dkm", "methods", "callback", "tasks", "explore")),
        ("runtime", ("coreml", "dkm", "methods", "callback", "tasks", "explore")),
        ("coreml", ("methods", "callback", "tasks", "explore")),
        ("dkm", ("package", "runtime", "coreml", "methods", "callback", "tasks", "explore")),
        ("methods", ("callback", "commands", "tasks", "explore")),
    ],
)
def test_an_area_loads_none_of_those_above_it_nor_lightning_and_says_nothing(area, above):
    forbidden = ["lightning", "hydra", "omegaconf", *(f"lightning_compress.{name}" for name in above)]
    code = (
        f"import sys, lightning_compress.{area}; print([name for name in {forbidden} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert result.stderr == ""


def test_the_names_that_stay_are_there():
    assert set(lightning_compress.__all__) == {
        "Compression",
        "CoreMLExport",
        "DKMPalettization",
        "Distillation",
        "GPTQ",
        "GPTQPalettization",
        "LinearQuantization",
        "MagnitudePruning",
        "SensitivePalettization",
        "SparseGPT",
    }
    for name in lightning_compress.__all__:
        assert getattr(lightning_compress, name).__name__ == name
    with pytest.raises(AttributeError, match="'Palettization'"):
        _ = lightning_compress.Palettization


def test_every_folder_is_installed():
    root = Path(lightning_compress.__file__).parent
    text = (root.parent / "pyproject.toml").read_text()
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        if any(folder.glob("*.py")):
            name = ".".join((root.name, *folder.relative_to(root).parts))
            assert f'"{name}"' in text, name
