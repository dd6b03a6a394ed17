"""Every command and every snippet of the README, and of the groups' own, runs as it stands, only lengths shortened."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torchvision
from filelock import FileLock
from rich.console import Console

from lightning_compress import Compression, DKMPalettization
from lightning_compress.command_line.checking import check
from lightning_compress.command_line.comments import heading_of
from lightning_compress.command_line.composing import compose_command
from lightning_compress.command_line.words import sort_words
from lightning_compress.methods.mechanism.plan_table import plan_table
from lightning_compress.methods.mechanism.preparation import PreparedModule
from tests import readme_names

FILES = ("README.md", "conf/README.md")
README = "\n".join((Path(__file__).parents[1] / name).read_text(encoding="utf-8") for name in FILES)
BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def is_of_commands(block: str) -> bool:
    return block.startswith(("lightning-compress ", "python3 -m venv "))


COMMANDS = [line for block in BLOCKS if is_of_commands(block) for line in block.splitlines() if line]
OURS = [shlex.split(line, comments=True)[1:] for line in COMMANDS if line.startswith("lightning-compress ")]
INSTALLING = [line for line in COMMANDS if not line.startswith("lightning-compress ")]


# Snippets, each known by a line of its own.


def fits(block: str, folder: Path) -> None:
    names: dict[str, Any] = {"lit": readme_names.Module(), "data": readme_names.Data()}
    exec(block.replace("max_epochs=5", "max_epochs=1"), names)
    assert (folder / "detector.mlpackage").is_dir()
    assert names["compression"].finalized.head.weight.unique().numel() <= 10 * 64


def is_driven_by_data(block: str, folder: Path) -> None:
    names: dict[str, Any] = {"lit": readme_names.Module(), "data": readme_names.Data()}
    exec(block, names)
    assert (folder / "detector.mlpackage").is_dir()
    assert names["compression"].finalized.trunk[0].weight.unique().numel() == 8


def joins_methods(block: str, folder: Path) -> None:
    names: dict[str, Any] = {}
    exec(block, names)
    compression: Compression = names["compression"]
    compression.module_path = "model"
    trainer = L.Trainer(max_epochs=1, callbacks=[compression], accelerator="cpu", logger=False)
    trainer.fit(readme_names.Module(), datamodule=readme_names.Data())
    techniques = {layer.name: layer.technique for layer in compression.layers}
    assert "palettized" in techniques["trunk.0.weight"]
    assert "palettized" not in techniques["head.weight"]


def is_taught(block: str, folder: Path) -> None:
    names: dict[str, Any] = {}
    exec(block, names)
    compression: Compression = names["compression"]
    compression.module_path = "model"
    trainer = L.Trainer(
        max_epochs=1, callbacks=[compression], accelerator="cpu", logger=False, log_every_n_steps=1
    )
    trainer.fit(readme_names.Module(), datamodule=readme_names.Data())
    assert float(trainer.callback_metrics["compression/distillation"]) > 0


def is_printed(block: str, folder: Path) -> None:
    prepared = PreparedModule(
        torchvision.models.resnet18(num_classes=10),
        [DKMPalettization(n_bits=2, module_name_configs={"fc": None})],
    )
    rows, inputs = prepared.planned_rows()
    console = Console(width=118, file=io.StringIO())
    console.print(plan_table(rows, inputs, prepared.plan.unreachable))
    printed = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert [line for line in printed if line] == block.splitlines()


def reads_a_package(block: str, folder: Path) -> None:
    readme_names.detector(folder / "detector.mlpackage")
    program, last = block.rstrip().rsplit("\n", 1)
    names: dict[str, Any] = {}
    exec(program, names)
    (coordinates,) = eval(last, names)
    assert coordinates.shape[-1] == 4


def is_an_application(block: str, folder: Path) -> None:
    (settings,) = (other for other in BLOCKS if other.startswith("defaults:"))
    (folder / "app.yaml").write_text(settings)
    (folder / "app.py").write_text(block.replace("max_epochs=5", "max_epochs=1"))
    called = re.findall(r"`python (app\.py[^`]*)`", README)
    assert called
    for words in called:
        run([sys.executable, *words.split()], folder)
        assert (folder / "digits.mlpackage").is_dir()


def is_a_module_of_ones_own(block: str, folder: Path) -> None:
    names: dict[str, Any] = {}
    exec(block, names)
    module, data = names["LitTagger"](), names["Photos"]()
    L.Trainer(fast_dev_run=True, accelerator="cpu").fit(module, datamodule=data)
    assert "recipe.module._target_=shop.LitTagger" in README
    assert "data._target_=shop.Photos" in README


SNIPPETS: dict[str, Callable[[str, Path], None]] = {
    "callbacks=[compression]).fit(lit, datamodule=data)": fits,
    "compression.calibrate(lit, data)": is_driven_by_data,
    "MagnitudePruning(target_sparsity=0.5,": joins_methods,
    'Distillation("soft_labels"': is_taught,
    "palette of 2 bits": is_printed,
    'runtime.load("detector.mlpackage")': reads_a_package,
    "class LitDigits(": is_an_application,
    "class LitTagger(": is_a_module_of_ones_own,
    "searchpath: [pkg://lightning_compress.conf]": is_an_application,
}
SLOW = (reads_a_package, is_an_application)


def snippet(text: str) -> str:
    (block,) = (block for block in BLOCKS if text in block and not is_of_commands(block))
    return block


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run(
        words,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=550,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, (words, done.stderr[-3000:])
    return done.stdout


def test_each_snippet_is_tested_once():
    for block in BLOCKS:
        if not is_of_commands(block):
            assert sum(text in block for text in SNIPPETS) == 1, f"no test runs this snippet:\n{block}"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, marks=pytest.mark.slow if test in SLOW else ())
        for text, test in SNIPPETS.items()
        if not text.startswith("searchpath")
    ],
)
def test_a_snippet_runs(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SNIPPETS[text](snippet(text), tmp_path)


# Commands.

SHORTER = {
    "": {"trainer.accelerator": "cpu", "trainer.limit_val_batches": "1", "pictures.count": "1"},
    "fits": {
        "float_fit.trainer.max_steps": "2",
        "float_fit.trainer.max_epochs": "1",
        "compressed_fit.trainer.max_steps": "2",
        "compressed_fit.trainer.max_epochs": "1",
        "post_training_bits": "[2]",
    },
    "curve": {"curve.sparsities": "[0.5]", "curve.bits": "[1]", "curve.int8": "false", "rehearse": "false"},
    "explore": {
        "explore.rungs": "[kmeans]",
        "explore.forms": "[palettize_2bit]",
        "explore.samples": "2",
        "data.val_images": "20",
        "rehearse": "false",
    },
    "digits_detection": {"data.train_images": "8", "data.val_images": "2"},
    "image_folder": {
        "data.num_workers": "0",
        "data.num_classes": "2",
        "recipe.module.weights": "null",
        "export.verify": "false",
    },
}
"""What makes a job short; `image_folder` stands for ImageNet here, whose weights nobody can download in a test: with
random ones half precision is no longer near."""


def shortened(words: list[str]) -> list[str]:
    """The words of a command, and behind them what makes it short."""
    command = words[0]
    if command not in ("train", "curve", "explore", "export", "verify") or "--help" in words:
        return words
    given = {word.partition("=")[0] for word in words}
    choices = compose_command(command, sort_words(command, words[1:]).overrides).choices
    size = "32" if choices["recipe"] == "resnet50" else "64"
    wanted = {"data.image_size": size, "data.batch_size": "2", **SHORTER.get(choices.get("data") or "", {})}
    if choices["recipe"] == "module":
        # Its data have arguments of their own.
        wanted = {}
    if command == "verify":
        # After two steps many a box stands on an edge.
        wanted |= {"samples": "2", "metric_tolerance": "0.1"}
    if command == "train":
        wanted |= SHORTER[""] | SHORTER["fits"]
        if words != OURS[0]:
            wanted["rehearse"] = "false"
        if "trainer=ddp" in words:
            # Two processes on a CPU stand for GPUs.
            wanted |= {"trainer.devices": "2", "trainer.precision": "32-true"}
            given -= {"trainer.devices"}
    if command == "explore":
        wanted |= SHORTER[""] | SHORTER["explore"]
        wanted |= {key: SHORTER["fits"][key] for key in SHORTER["fits"] if key != "post_training_bits"}
        del wanted["trainer.limit_val_batches"]
        if choices["recipe"] == "resnet50":
            del wanted["data.val_images"]
            wanted["data.batch_size"] = "60"
    lengths = {"float_fit.trainer.max_steps", "compressed_fit.trainer.max_epochs"}
    if command == "curve":
        wanted |= SHORTER[""] | {
            key: SHORTER["fits"][key] for key in SHORTER["fits"] if key != "post_training_bits"
        }
        wanted |= SHORTER["curve"] | {
            word.partition("=")[0]: "1" for word in words if word.startswith("curve.lengths.")
        }
        lengths |= {key for key in wanted if key.startswith("curve.")}
        if choices["recipe"] == "resnet50":
            # Each of its packages is measured on 360 digits.
            wanted["data.batch_size"] = "60"
    return [
        *words,
        *(f"{key}={value}" for key, value in wanted.items() if key not in given or key in lengths & given),
    ]


@pytest.fixture(scope="session")
def user_folder(tmp_path_factory) -> Path:
    """A folder with a user's images and module, the same one for all processes that run tests."""
    folder = tmp_path_factory.getbasetemp() / "readme"
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parents[1] / "readme"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            readme_names.own_boxes(folder / "my" / "images")
            readme_names.own_classes(folder / "my" / "imagenet")
            (folder / "shop.py").write_text(snippet("class LitTagger("))
    return folder


def named_by(words: list[str]) -> str | None:
    """The folder that a command names for its results."""
    return next((word.partition("=")[2] for word in words if word.startswith("hydra.run.dir=")), None)


def run_once(words: list[str], folder: Path) -> None:
    """Run a command that names its folder, unless another test has."""
    named = named_by(words)
    results = folder / str(named) / ("curve.md" if words[0] == "curve" else "results.md")
    with FileLock(folder / f"{named}.lock"):
        if not results.is_file():
            typed(words, folder)
    assert results.is_file()


def typed(words: list[str], folder: Path) -> str:
    return run([str(Path(sys.executable).parent / "lightning-compress"), *shortened(words)], folder)


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_the_words_of_a_command_are_good(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in re.findall(r"(?:run|tagger)/[\w./]+", " ".join(words)):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    sorted_words = sort_words(words[0], words[1:])
    check(words[0], compose_command(words[0], sorted_words.overrides))


@pytest.mark.slow
@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_a_command_runs(words, user_folder):
    for others in OURS:
        if f"{named_by(others)}/" in " ".join(words):
            run_once(others, user_folder)
    if named_by(words) is not None:
        run_once(words, user_folder)
    else:
        assert typed(words, user_folder)


@pytest.mark.slow
def test_the_module_of_ones_own_trains_on_several_processes_too(tmp_path):
    (tmp_path / "shop.py").write_text(snippet("class LitTagger("))
    own = next(words for words in OURS if "recipe.module._target_=shop.LitTagger" in words)
    typed([*own, "trainer=ddp_cpu", "hydra.run.dir=run"], tmp_path)
    assert (tmp_path / "run" / "palettize_2bit.mlpackage").is_dir()


def test_installing_is_one_line_of_shell():
    assert len(INSTALLING) == 2
    for line in INSTALLING:
        made, installed, *last = (shlex.split(part) for part in line.split("&&"))
        assert made == ["python3", "-m", "venv", ".venv"]
        assert installed[:2] == [".venv/bin/pip", "install"]
        assert last[0][0] in (".venv/bin/lightning-compress", ".venv/bin/pytest")


def test_the_table_names_every_choice_of_every_group():
    composition = compose_command("train", [])
    for group, options in composition.options.items():
        if group in ("callbacks", "experiment"):
            continue
        (row,) = re.findall(rf"^\| `{group}` \| (.*) \|$", README, re.MULTILINE)
        assert set(re.findall(r"`([a-z0-9_]+)`", row)) == set(options), group
        assert all(heading_of(f"{group}/{option}") for option in options)
