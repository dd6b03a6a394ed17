"""Jobs of several processes: stopped and resumed, and started by something else than Lightning."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from coremltools.proto import Model_pb2

from lightning_compress.commands.jobs.building import FITS
from tests.commands.test_resume import PACKAGES
from tests.commands.tiny import WORDS
from tests.faults.jobs import free_port
from tests.package.damaging import model_file, weight_file

ROOT = Path(__file__).resolve().parents[2]

TWO = [*WORDS, "trainer=ddp_cpu", "trainer.accelerator=cpu"]


def typed(
    *words: str, folder: Path, launcher: tuple[str, ...] = (), stop_at: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `train` as its user would: processes of one job cannot be forked from one that is not its own."""
    return subprocess.run(
        [sys.executable, *launcher, "-m", "lightning_compress.cli", "train", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "STOP_AT": stop_at},
    )


def left_in(folder: Path) -> dict[str, bytes]:
    """What a finished job has to leave the same in whichever processes it ran.

    Programs are compared as what they say: in another process, protobuf writes the entries of a map in another order.
    """
    left = {name: (folder / name).read_bytes() for name in ("results.json", "results.md")}
    left |= {f"{fit}/metrics.csv": (folder / fit / "metrics.csv").read_bytes() for fit in FITS}
    for name in PACKAGES:
        package = folder / f"{name}.mlpackage"
        specification = Model_pb2.Model.FromString(model_file(package).read_bytes())
        left[f"{name}, program"] = specification.SerializeToString(deterministic=True)
        left[f"{name}, weights"] = weight_file(package).read_bytes()
    return left


def require_good(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-3000:]


def torchrun(*options: str) -> tuple[str, ...]:
    return (
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
        *options,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A job of two processes that nobody stopped, which has rehearsed."""
    folder = tmp_path_factory.mktemp("two")
    ended = typed(*TWO, "hydra.run.dir=whole", folder=folder)
    require_good(ended)
    assert "all stages were rehearsed in " in ended.stdout
    return folder / "whole"


@pytest.mark.slow
@pytest.mark.parametrize("point", ["train:4", "train:16"])
def test_a_job_of_two_processes_that_was_stopped_ends_as_one_never_stopped(whole, tmp_path, point):
    stopped = typed(*TWO, "hydra.run.dir=job", folder=tmp_path, stop_at=f"{point}:SIGTERM")
    assert stopped.returncode == 128 + signal.SIGTERM, (stopped.stdout + stopped.stderr)[-3000:]
    require_good(typed("resume=job", folder=tmp_path))
    assert left_in(tmp_path / "job") == left_in(whole)


@pytest.mark.slow
def test_rehearsal_changes_nothing_in_a_job_of_two_processes(whole, tmp_path):
    require_good(typed(*TWO, "hydra.run.dir=job", "rehearse=false", folder=tmp_path))
    assert left_in(tmp_path / "job") == left_in(whole)


@pytest.mark.slow
def test_processes_of_torchrun_share_one_folder_and_leave_what_those_of_lightning_do(whole, tmp_path):
    # Each process names another folder, as it would in another second.
    ended = typed(*TWO, "hydra.run.dir=jobs/${oc.env:RANK}", folder=tmp_path, launcher=torchrun())
    require_good(ended)
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["0"]
    assert left_in(tmp_path / "jobs" / "0") == left_in(whole)


@pytest.mark.slow
def test_a_job_of_torchrun_is_resumed_by_torchrun(whole, tmp_path):
    stopped = typed(
        *TWO, "hydra.run.dir=job", folder=tmp_path, launcher=torchrun(), stop_at="train:4:SIGTERM"
    )
    assert stopped.returncode != 0
    require_good(typed("resume=job", folder=tmp_path, launcher=torchrun()))
    assert left_in(tmp_path / "job") == left_in(whole)


@pytest.mark.slow
def test_all_processes_of_torchrun_end_where_the_first_cannot_begin(tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "results.json").write_text(json.dumps([]))
    ended = typed(*TWO, "hydra.run.dir=job", folder=tmp_path, launcher=torchrun())
    assert ended.returncode == 1
    assert "'job' holds results of a job" in ended.stderr


@pytest.mark.slow
def test_processes_of_srun_share_one_folder(whole, tmp_path):
    port = free_port()
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "lightning_compress.cli", "train", *TWO, f"hydra.run.dir=jobs/{rank}"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(ROOT),
                "MASTER_PORT": str(port),
                "SLURM_JOB_ID": "1234",
                "SLURM_JOB_NAME": "train",
                "SLURM_STEP_ID": "0",
                "SLURM_NTASKS": "2",
                "SLURM_NTASKS_PER_NODE": "2",
                "SLURM_NNODES": "1",
                "SLURM_NODEID": "0",
                "SLURM_NODELIST": "localhost",
                "SLURM_PROCID": str(rank),
                "SLURM_LOCALID": str(rank),
            },
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=280)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "".join(text[-2000:] for text in printed)
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["0"]
    assert left_in(tmp_path / "jobs" / "0") == left_in(whole)
