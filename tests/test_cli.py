"""The command as users call it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import lightning_compress
from lightning_compress import CoreMLExport
from lightning_compress.cli import main


def run(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "lightning_compress.cli", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, **environment},
    )


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "train" in out
    assert "inspect" in out


def test_a_wrong_command_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as end:
        main(["trian"])
    assert end.value.code == 2
    assert "unknown command 'trian'; did you mean 'train'?" in capsys.readouterr().err


def test_a_misspelt_option_names_the_nearest_option_and_no_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--versoin"])
    assert end.value.code == 2
    assert "'--versoin' is no option; did you mean '--version'?" in capsys.readouterr().err


def test_the_version_is_that_of_the_installed_package(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert lightning_compress.__version__ == importlib.metadata.version("lightning-compress")
    assert capsys.readouterr().out == f"lightning-compress {lightning_compress.__version__}\n"


SLOW_TO_IMPORT = ("torch", "lightning.pytorch", "coremltools", "sklearn", "matplotlib")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["trian"],
        ["train", "--help"],
        ["train", "--hlep"],
        ["train", "compresion=none"],
        ["train", "compression=palettize_3bit"],
        ["train", "seed=abc"],
        ["train", "data=coco"],
        ["inspect", "missing.mlpackage"],
        ["profile", "missing"],
    ],
)
def test_help_and_mistakes_are_answered_before_anything_slow_is_imported(words, tmp_path):
    program = (
        "import sys\n"
        "from lightning_compress.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n"
        f"    loaded = [name for name in {SLOW_TO_IMPORT} if name in sys.modules]\n"
        "    print('loaded', loaded)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert result.stdout.endswith("loaded []\n"), result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_reader_of_the_beginning_of_a_page_is_no_error(tmp_path):
    command = f"{sys.executable} -m lightning_compress.cli train --help | head -1"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert result.stdout.startswith("usage: lightning-compress train")
    assert result.stderr == ""


def test_ctrl_c_while_a_command_is_loaded_is_no_traceback(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from lightning_compress.cli import main\n"
        "signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))\n"
        "signal.setitimer(signal.ITIMER_REAL, 1.0)\n"
        "main(['train', 'float_fit.trainer.max_steps=2'])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 130
    assert "Traceback" not in result.stderr


def test_the_environment_and_the_words_are_left_as_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, words = dict(os.environ), list(sys.argv)
    CoreMLExport(tmp_path / "net.mlpackage").run(nn.Linear(64, 48).eval(), torch.zeros(1, 64))
    main(["inspect", "net.mlpackage"])
    assert dict(os.environ) == before
    assert sys.argv == words


@pytest.mark.slow
def test_a_word_that_a_class_refuses_is_one_line_with_its_key(tmp_path):
    result = run(
        "train", "trainer.accelerator=gpx", "data.image_size=64", "data.train_images=2", folder=tmp_path
    )
    assert result.returncode == 1
    assert "ConfigurationError: trainer cannot be used" in result.stderr
    assert "gpx" in result.stderr
    assert "Traceback" not in result.stderr


def test_inspect_shows_what_a_package_holds(tmp_path):
    torch.manual_seed(0)
    CoreMLExport(tmp_path / "net.mlpackage").run(nn.Linear(64, 48).eval(), torch.zeros(1, 64))
    result = run("inspect", "net.mlpackage", "json=report.json", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "linear" in result.stdout
    assert "3,072" in result.stdout
    assert '"parameters": 3072' in (tmp_path / "report.json").read_text()


def test_an_error_is_one_line_and_not_a_traceback(tmp_path):
    result = run("inspect", "package=missing.mlpackage", folder=tmp_path)
    assert result.returncode == 1
    assert "PackageError: There is no Core ML package at missing.mlpackage" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_wrong_key_is_named(tmp_path):
    result = run("train", "compresion=palettize_2bit", folder=tmp_path)
    assert result.returncode == 1
    assert "compresion" in result.stderr


@pytest.mark.slow
def test_wrong_bits_on_the_command_line_are_one_line_too(tmp_path):
    result = run("train", "compression.methods.palettization.n_bits=5", folder=tmp_path)
    assert result.returncode == 1
    assert "valid are [1, 2, 3, 4, 6, 8]" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("logger", "written"), [("none", None), ("csv", "metrics.csv"), ("tensorboard", "events.out.tfevents*")]
)
def test_a_job_logs_what_its_logger_says(tmp_path, logger, written):
    result = run(
        "train",
        f"logger={logger}",
        "float_fit.trainer.max_steps=2",
        "compression=none",
        "post_training_bits=[]",
        "data.train_images=8",
        "data.val_images=2",
        "data.image_size=64",
        "data.batch_size=4",
        "trainer.accelerator=cpu",
        "hydra.run.dir=run",
        folder=tmp_path,
        OMP_NUM_THREADS="1",
    )
    assert result.returncode == 0, result.stderr[-3000:]
    folder = tmp_path / "run" / "float_fit"
    # The weights are what later stages begin with.
    files = [path for path in folder.iterdir() if path.is_file() and path.name != "weights.ckpt"]
    assert any(path.match(written) for path in files) if written else not files
    assert "HYDRA" not in result.stdout + result.stderr
    assert "Tip" not in result.stdout + result.stderr


@pytest.mark.slow
def test_two_processes_write_one_package(tmp_path):
    result = run(
        "train",
        "trainer=ddp_cpu",
        "float_fit.trainer.max_steps=2",
        "compressed_fit.trainer.max_steps=2",
        "data.train_images=16",
        "data.val_images=4",
        "data.image_size=64",
        "data.batch_size=2",
        "post_training_bits=[2]",
        "hydra.run.dir=run",
        folder=tmp_path,
        OMP_NUM_THREADS="1",
    )
    assert result.returncode == 0, result.stderr[-3000:]
    packages = sorted(path.name for path in (tmp_path / "run").glob("*.mlpackage"))
    assert packages == ["float16.mlpackage", "palettize_2bit.mlpackage", "post_training_2bit.mlpackage"]
    assert result.stdout.count("Compression by layer") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
