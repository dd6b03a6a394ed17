"""Whole networks of torchvision, and coremltools' own tests of its ops."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, **environment):
    command = [sys.executable, "-W", "ignore", "-m", *arguments]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", ["resnet18", "shufflenet_v2_x1_0", "swin_t", "lraspp_mobilenet_v3_large"])
def test_networks_of_torchvision_agree_with_torch(model):
    run("tests.benchmarks.runtime_breadth", "--models", model)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_coremltools_own_tests_of_ops_pass():
    # Left out: what invalid indices say, and states, whose tests ask for macOS before they reach the runtime.
    run(
        "pytest",
        "-p",
        "tests.runtime.coremltools_conformance",
        f"--rootdir={ROOT / 'tests'}",
        "-c",
        os.devnull,
        "-q",
        "-k",
        "not invalid_indices and not TestReadState and not UpdateState",
        "--pyargs",
        "coremltools.converters.mil.mil.ops.tests",
        PYMIL_TEST_TARGETS="mlprogram",
        CONFORMANCE_STRIDE="101",
    )
