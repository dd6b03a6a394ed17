"""Several processes end with the same tensors, one package, and one error: real gloo processes on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from lightning_compress.errors import StrategyError
from lightning_compress.strategies import check_strategy
from tests.faults.jobs import EPOCHS, JOBS, Job, as_json, package_bytes

ROOT = Path(__file__).resolve().parents[1]


def run(*jobs: Job) -> list[list[int]]:
    """Run jobs one after the other, away from this process's threads; the exit codes by rank."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.faults.jobs", as_json(list(jobs))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def differing_tensors(job: Job) -> list[str]:
    """The tensors that are not the same on all ranks after an epoch."""
    found = []
    for epoch in range(EPOCHS):
        ranks = [
            json.loads((Path(job.folder) / "digests" / f"epoch{epoch}_rank{rank}.json").read_text())
            for rank in range(job.world_size)
        ]
        assert all(rank.keys() == ranks[0].keys() for rank in ranks)
        found += [
            f"{name} after epoch {epoch}" for name in ranks[0] if len({rank[name] for rank in ranks}) > 1
        ]
    return found


def log(job: Job, rank: int) -> str:
    """What a process printed."""
    return (Path(job.folder) / f"log{rank}.txt").read_text()


@pytest.mark.parametrize(
    ("world_size", "names"),
    [
        (2, ["grouped palettization", "learnable quantization"]),
        pytest.param(2, sorted(JOBS), marks=pytest.mark.slow),
        pytest.param(3, sorted(JOBS), marks=pytest.mark.slow),
    ],
)
def test_all_processes_hold_the_same_tensors_after_each_epoch(tmp_path, world_size, names):
    jobs = [Job(name, str(tmp_path / str(index)), world_size) for index, name in enumerate(names)]
    assert run(*jobs) == [[0] * world_size] * len(jobs)
    assert {job.name: differing_tensors(job) for job in jobs} == {name: [] for name in names}
    for job in jobs:
        assert package_bytes(job.package)
        # The table of layers and the line on the package come once.
        assert ["Compression by layer" in log(job, rank) for rank in range(world_size)] == [True] + [
            False
        ] * (world_size - 1)
        assert [path.name for path in Path(job.folder).glob("*.mlpackage")] == ["net.mlpackage"]


def test_an_export_that_fails_ends_every_process_with_its_error(tmp_path):
    job = Job("pruning", str(tmp_path / "job"), world_size=2, failing_export=True)
    assert run(job) == [[1, 1]]
    assert "ValueError: this network has no such output" in log(job, 0)
    assert "CompressionError: rank 0 failed: ValueError: this network has no such output" in log(job, 1)


def test_the_others_wait_longer_than_the_fits_own_patience(tmp_path):
    job = Job("pruning", str(tmp_path / "job"), world_size=2, slow_export=9.0, timeout=6.0)
    start = time.monotonic()
    assert run(job) == [[0, 0]]
    assert time.monotonic() - start > 9.0
    assert package_bytes(job.package)


@pytest.mark.parametrize("strategy", [FSDPStrategy(), DeepSpeedStrategy.__new__(DeepSpeedStrategy)])
def test_strategies_that_shard_weights_are_refused(strategy):
    # Lightning builds no Trainer with them where there is no GPU, or no DeepSpeed.
    with pytest.raises(StrategyError, match="shards parameters across processes.*use strategy='ddp'"):
        check_strategy(SimpleNamespace(strategy=strategy))


@pytest.mark.parametrize(
    ("name", "method"), [("ddp_spawn", "spawn"), ("ddp_fork", "fork"), ("ddp_notebook", "fork")]
)
def test_strategies_that_hand_weights_back_are_refused(make_trainer, name, method):
    with pytest.raises(StrategyError, match=f"starts its processes by '{method}'.*use strategy='ddp'"):
        check_strategy(make_trainer(strategy=name, devices=2))
