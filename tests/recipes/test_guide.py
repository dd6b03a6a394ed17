"""The recipe that recipes/README.md tells how to add runs as it is written there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = (Path(__file__).resolve().parents[2] / "recipes" / "README.md").read_text()


def block(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    return text


@pytest.mark.slow
def test_the_recipe_of_the_guide_trains_compresses_and_exports(tmp_path):
    (tmp_path / "small.py").write_text(block("python"))
    configuration = block("yaml")
    place = tmp_path / configuration.splitlines()[0].removeprefix("# ")
    place.parent.mkdir(parents=True)
    # Hydra wants `@package` in the first line of a file.
    place.write_text(configuration.partition("\n")[2])
    program, *words = shlex.split(block("sh"))
    assert program == "lightning-compress"
    result = subprocess.run(
        [sys.executable, "-m", "lightning_compress.cli", *words, "hydra.run.dir=out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {"float16", "palettize_4bit"} <= {entry["name"] for entry in results}
    assert {entry["metric"] for entry in results} == {"accuracy"}
    assert min(entry["value"] for entry in results if entry["name"] != "post_training_2bit") > 0.5, results
