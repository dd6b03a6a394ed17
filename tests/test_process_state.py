"""No test sees what an earlier one did to the process."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch

from tests.process_state import ProcessState

pytest_plugins = ["pytester"]


def change_everything(folder):
    """What careless tests do, all of it."""
    torch.set_num_threads(torch.get_num_threads() + 1)
    os.environ["LEFT_BY_A_TEST"] = "1"
    os.environ.pop("HOME", None)
    os.chdir(folder)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    for draw in (random.random, np.random.rand, lambda: torch.rand(1)):
        draw()


CARELESS = """
from tests.process_state import ProcessState
from tests.test_process_state import change_everything, without_the_seed

BEFORE = without_the_seed(ProcessState.now())


def test_that_changes_everything(tmp_path):
    change_everything(tmp_path)
    assert without_the_seed(ProcessState.now()) != BEFORE


def test_that_comes_next():
    assert without_the_seed(ProcessState.now()) == BEFORE
"""


def without_the_seed(state):
    """The settings, but for threads and the seed in the environment, which every test is given."""
    environment = {name: value for name, value in state.settings["environment"].items() if "SEED" not in name}
    return {**state.settings, "environment": environment, "threads": None}


@pytest.mark.parametrize(("conftest", "failed"), [("from tests.conftest import process_state", 0), ("", 1)])
def test_what_a_test_leaves_changed_is_gone_when_the_next_begins(pytester, conftest, failed):
    pytester.makeconftest(conftest)
    pytester.makepyfile(CARELESS)
    state = ProcessState.now()
    try:
        result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    finally:
        # Without the fixture it is this process that the test has changed.
        state.restore()
    result.assert_outcomes(passed=2 - failed, failed=failed)


def test_restoring_brings_back_random_numbers_too(tmp_path):
    draws = (random.random, np.random.rand, lambda: float(torch.rand(1)))
    state = ProcessState.now()
    expected = [draw() for draw in draws]
    change_everything(tmp_path)
    assert ProcessState.now().settings != state.settings
    state.restore()
    assert ProcessState.now().settings == state.settings
    assert [draw() for draw in draws] == expected


def test_every_test_starts_from_the_same_random_numbers():
    assert float(torch.rand(1)) == pytest.approx(0.7576, abs=1e-4)
