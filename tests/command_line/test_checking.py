"""What cannot work is told before anything slow begins."""

from __future__ import annotations

import importlib.util

import pytest

from lightning_compress.command_line.checking import check
from lightning_compress.command_line.composing import compose_command
from lightning_compress.errors import ConfigurationError


def checked(command: str, *words: str) -> None:
    check(command, compose_command(command, list(words)))


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=abc"], "seed=abc is a text; a whole number is needed"),
        (["seed=1.5"], "seed=1.5 is a number; a whole number is needed"),
        (["seed=null"], "seed=null is nothing"),
        (["seed=-1"], "seed=-1 is out of range; valid are numbers from 0 to 4294967295"),
        (["seed=4294967296"], "out of range"),
        (["float_fit.enabled=maybe"], "float_fit.enabled=maybe is a text; true or false is needed"),
        (["data.batch_size=two"], "a whole number is needed"),
        (
            ["recipe.module.learning_rate=fast"],
            "recipe.module.learning_rate=fast is a text; a number is needed",
        ),
        (["trainer.log_every_n_steps=often"], "a whole number is needed"),
        (["post_training_bits=2"], r"post_training_bits=2 is a number; a list, such as \[6,2\], is needed"),
        (["float_fit.trainer=5"], "a key of it .*max_steps"),
        (["recipe.network=[a]"], "is a list; a text is needed"),
        (["pictures.count=-1"], "pictures.count=-1 is out of range; valid are numbers from 0"),
        (["pictures.threshold=2"], "valid are numbers from 0 to 1"),
        (["data=coco"], "data.root has no default; give data.root=…"),
        (["~seed"], "~seed would take away a key that is needed; set it with seed=…"),
        (["hydra.run.dir=/proc/nowhere"], "the folder '/proc/nowhere' cannot be written"),
    ],
)
def test_a_value_that_cannot_be_used_is_told(words, message):
    with pytest.raises(ConfigurationError, match=message):
        checked("train", *words)


@pytest.mark.parametrize(
    "words",
    [
        ["trainer.devices=auto"],
        ["trainer.devices=[0,1]"],
        ["trainer.fast_dev_run=3"],
        ["trainer.precision=16"],
        ["recipe.module.learning_rate=1"],
        ["export.nms=null"],
        ["callbacks.learning_rate=null"],
        ["compression=prune_75", "compression.methods.pruning.scheduler.end_step=100"],
        ["recipe.module.image_size=${data.image_size}"],
        ["logger.save_dir=somewhere"],
        ["~callbacks.checkpoint"],
    ],
)
def test_values_of_other_types_that_the_classes_take_are_not_refused(words):
    checked("train", *words)


def test_the_folder_of_a_run_is_a_file(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(ConfigurationError, match="'taken' cannot be written"):
        checked("train", "hydra.run.dir=taken")


def test_trying_a_folder_leaves_nothing_there(tmp_path):
    checked("train", "hydra.run.dir=a/b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("path", "message"), [("no/report.json", "does not exist"), (".", "is a folder")])
def test_a_report_that_cannot_be_written_is_told(tmp_path, path, message):
    (tmp_path / "net.mlpackage").mkdir()
    with pytest.raises(ConfigurationError, match=message):
        checked("inspect", "package=net.mlpackage", f"json={path}")


def test_a_logger_that_is_not_installed_is_told_with_the_command_that_installs_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    with pytest.raises(
        ConfigurationError, match="logger=tensorboard needs tensorboard, .*: pip install tensorboard"
    ):
        checked("train", "logger=tensorboard")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a search needs a limit: explore.max_drop"),
        (["explore.max_drop=2x"], "explore.max_drop='2x' is no drop"),
        (["explore.max_size=4stones"], "explore.max_size='4stones' is no size"),
        (["explore.max_drop=0.01", "explore.budget=soon"], "explore.budget='soon' is no duration"),
    ],
)
def test_a_search_without_a_limit_to_keep_is_told(words, message):
    with pytest.raises(ConfigurationError, match=message):
        checked("explore", *words)


def test_a_search_that_goes_on_has_its_limit_already():
    checked("explore", "resume=.")
