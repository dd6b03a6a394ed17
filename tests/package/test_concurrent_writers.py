"""Jobs that write, change and read one package at the same time."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import coremltools as ct
import pytest
import torch

from lightning_compress import runtime
from lightning_compress.coreml import add_metadata
from lightning_compress.coreml.convert import convert
from lightning_compress.package import save
from lightning_compress.package.inspection import decompressed_weights, inspect
from lightning_compress.package.save import save_package
from lightning_compress.package.versions import exclusive

ROUNDS = 6


class Copied:
    """A model that is written as a copy of a package."""

    def __init__(self, package: Path) -> None:
        self.model = ct.models.MLModel(str(package), skip_model_load=True)

    def save(self, path: str) -> None:
        self.model.save(path)


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Two packages whose model of one with the weights of the other is no package, or a wrong one."""
    folder = tmp_path_factory.mktemp("versions")
    paths = []
    for size in (16, 48):
        layer = torch.nn.Linear(16, size)
        torch.nn.init.constant_(layer.weight, float(size))
        model = convert(layer, torch.ones(1, 16), target=ct.target.iOS15)
        paths.append(save_package(model, folder / f"{size}.mlpackage"))
    return paths


def write(source, path, two_renames):
    if two_renames:
        save._exchange = lambda *_: False
    model = Copied(source)
    for _ in range(ROUNDS):
        save_package(model, path)


def describe(path):
    for number in range(ROUNDS):
        report = add_metadata(path, {"round": number})
        assert report.user_metadata["round"] == str(number)


def read(path, deadline):
    while time.monotonic() < deadline:
        require_one_version(path)


def require_one_version(path):
    """The shape, which the model says, is that of the values, which the weights say."""
    (layer,) = [layer for layer in inspect(path).layers if len(layer.shape) == 2]
    assert layer.shape[0] in (16, 48)
    for weight in (
        decompressed_weights(path)["weight"],
        runtime.load(path).decompressed_weights()["weight_to_fp16"].numpy(),
    ):
        assert (weight == weight.shape[0]).all()


def start(function, *arguments):
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


@pytest.mark.parametrize("two_renames", [False, True], ids=["exchanged", "renamed twice"])
def test_two_writers_one_that_adds_metadata_and_a_reader_meet_whole_packages_only(
    versions, tmp_path, two_renames
):
    path = save_package(Copied(versions[0]), tmp_path / "net.mlpackage")
    writers = [start(write, version, path, two_renames) for version in versions]
    others = [start(describe, path), start(read, path, time.monotonic() + 2)]
    for process in (*writers, *others):
        process.join(120)
    assert [process.exitcode for process in (*writers, *others)] == [0, 0, 0, 0]
    require_one_version(path)
    # The last to write leaves its card or none; nobody leaves anything else.
    assert set(os.listdir(tmp_path)) <= {"net.mlpackage", "net.md"}


def test_metadata_of_several_jobs_is_all_there(versions, tmp_path):
    path = save_package(Copied(versions[0]), tmp_path / "net.mlpackage")

    def add(key):
        for number in range(3):
            add_metadata(path, {f"{key} {number}": number}, card=False)

    jobs = [start(add, key) for key in ("one", "two", "three")]
    for job in jobs:
        job.join(120)
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    added = [key for key in inspect(path).user_metadata if key.split()[0] in ("one", "two", "three")]
    assert len(added) == 9


def test_a_thread_may_take_the_lock_again(tmp_path):
    with exclusive(tmp_path / "net.mlpackage"), exclusive(tmp_path / "net.mlpackage"):
        pass


def test_adding_metadata_copies_no_weights(versions, tmp_path):
    path = save_package(Copied(versions[0]), tmp_path / "net.mlpackage")
    before = next(path.rglob("weight.bin")).stat().st_ino
    add_metadata(path, {"a": 1}, card=False)
    assert next(path.rglob("weight.bin")).stat().st_ino == before
    assert next(path.rglob("weight.bin")).stat().st_nlink == 1
