"""Packages mutated in 200 ways are read or refused; and the fuzzer finds what is planted."""

from __future__ import annotations

import os
import time

import pytest

from lightning_compress.errors import PackageError
from tests.fuzz.fuzzing import run
from tests.fuzz.packages import make_packages
from tests.fuzz.reading import READERS


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return make_packages(tmp_path_factory.mktemp("packages"))


def test_mutations_are_read_or_refused_with_an_answer(packages):
    readers = {name: READERS[name] for name in ("load", "inspect")}
    outcomes = list(run(packages, readers, 200, seed=0))
    assert [outcome for outcome in outcomes if outcome.failure] == []
    assert len(outcomes) == 200
    assert {outcome.level for outcome in outcomes} == {
        *("messages", "model bytes", "weight bytes", "manifest", "files", "path")
    }
    assert 20 < sum(outcome.refused for outcome in outcomes) < 190


def test_unharmed_packages_are_read(packages):
    for reader in ("load", "load functions", "inspect", "decompress"):
        for package in packages.values():
            READERS[reader](package)


def planted(number):
    """A reader that fails in a way of its own on every third package."""

    def read(path):
        read.calls += 1
        if read.calls % 3 == 0:
            number()

    read.calls = 0
    return read


def foreign():
    raise KeyError("main")


def without_an_answer():
    raise PackageError("list index out of range")


def refusing():
    raise PackageError("it is damaged: it holds nothing")


@pytest.mark.parametrize(
    ("plant", "failure"),
    [
        (foreign, "KeyError"),
        (without_an_answer, "message"),
        (os.abort, "crash"),
        (lambda: time.sleep(100), "hang"),
        (lambda: bytearray(4 * 10**9), "MemoryError"),
        (refusing, ""),
    ],
    ids=["foreign", "without an answer", "crash", "hang", "memory", "refused"],
)
def test_what_is_planted_is_found_and_the_rest_goes_on(packages, plant, failure):
    outcomes = list(run(packages, {"planted": planted(plant)}, 6, seed=0, patience=1.0))
    assert [outcome.number for outcome in outcomes] == list(range(6))
    failures = [outcome.failure for outcome in outcomes if outcome.failure]
    assert failures == ([failure] * 2 if failure else [])
