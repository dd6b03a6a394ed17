"""Paths that lead to nothing are told before a command is loaded, with the nearest name."""

from __future__ import annotations

import pytest

from lightning_compress.command_line.checking import check
from lightning_compress.command_line.composing import compose_command
from lightning_compress.command_line.paths import nearest_path
from lightning_compress.errors import CompressionError, ConfigurationError


def checked(command: str, *words: str) -> None:
    check(command, compose_command(command, list(words)))


@pytest.fixture(autouse=True)
def run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "palettize_2bit.mlpackage").mkdir(parents=True)
    (tmp_path / "run" / "weights.ckpt").touch()


def test_a_command_without_its_path_says_how_it_is_called():
    with pytest.raises(
        ConfigurationError, match="package is empty; give it as in: lightning-compress inspect net"
    ):
        checked("inspect")
    with pytest.raises(
        ConfigurationError, match="ckpt is empty; give it as in: lightning-compress export last.ckpt"
    ):
        checked("export")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("inspect", ["package=rnu/palettize_2bit.mlpackage"]),
        ("inspect", ["package=run/paletize_2bit.mlpackage"]),
        ("verify", ["package=run/palettize_2bit.mlpackage", "checkpoint=run/wieghts.ckpt"]),
        ("train", ["float_fit.weights=run/weight.ckpt"]),
        ("explore", ["weights=rum/weights.ckpt"]),
        ("explore", ["explore.sensitivity=run/weights.cpkt"]),
        ("train", ["resume=runn"]),
        ("export", ["ckpt=run/weights"]),
    ],
)
def test_a_path_that_is_misspelt_is_told_with_the_right_one(command, words):
    with pytest.raises(
        CompressionError, match=r"did you mean 'run(/palettize_2bit\.mlpackage|/weights\.ckpt)?'\?$"
    ):
        checked(command, *words)


def test_paths_that_are_there_are_taken():
    checked("inspect", "package=run/palettize_2bit.mlpackage")
    checked("verify", "package=run/palettize_2bit.mlpackage", "checkpoint=run/weights.ckpt")
    checked("train", "float_fit.weights=run/weights.ckpt")
    checked("train", "resume=run")


def test_a_path_of_which_nothing_is_near_is_told_without_another():
    with pytest.raises(
        ConfigurationError, match=r"resume='elsewhere' holds no job: there is no such folder\.$"
    ):
        checked("train", "resume=elsewhere")


def test_of_two_mistakes_in_a_path_the_first_is_told():
    assert nearest_path("rn/no.ckpt") == "; did you mean 'run'?"
