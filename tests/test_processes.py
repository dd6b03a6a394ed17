"""Several processes end with the same tensors, one package, and one error: real gloo processes on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from lightning_compress.callback.strategies import check_strategy
from lightning_compress.errors import StrategyError
from tests.faults.jobs import JOBS, Job, differing_tensors, package_bytes, run_apart


def log(job: Job, rank: int) -> str:
    """What a process printed."""
    return (Path(job.folder) / f"log{rank}.txt").read_text()


@pytest.mark.parametrize(
    ("world_size", "names"),
    [
        (2, ["learnable quantization"]),
        pytest.param(2, sorted(JOBS), marks=pytest.mark.slow),
        pytest.param(3, sorted(JOBS), marks=pytest.mark.slow),
    ],
)
def test_all_processes_hold_the_same_tensors_after_each_epoch(tmp_path, world_size, names):
    jobs = [Job(name, str(tmp_path / str(index)), world_size) for index, name in enumerate(names)]
    assert run_apart(*jobs) == [[0] * world_size] * len(jobs)
    assert {job.name: differing_tensors(job) for job in jobs} == {name: [] for name in names}
    for job in jobs:
        assert package_bytes(job.package)
        # The table of layers and the line on the package come once.
        assert ["Compression by layer" in log(job, rank) for rank in range(world_size)] == [True] + [
            False
        ] * (world_size - 1)
        assert [path.name for path in Path(job.folder).glob("*.mlpackage")] == ["net.mlpackage"]


@pytest.mark.slow
def test_an_export_that_fails_ends_every_process_with_its_error(tmp_path):
    job = Job("pruning", str(tmp_path / "job"), world_size=2, failing_export=True)
    assert run_apart(job) == [[1, 1]]
    told = "wrapper=failing of CoreMLExport failed on Network: ValueError: this network has no such output"
    assert f"ConfigurationError: {told}" in log(job, 0)
    assert f"CompressionError: rank 0 failed: ConfigurationError: {told}" in log(job, 1)
    # The rehearsal on rank 0 has told it, before the first step.
    assert not list((tmp_path / "job").rglob("*.ckpt"))


@pytest.mark.slow
def test_the_others_wait_longer_than_the_fits_own_patience(tmp_path):
    job = Job("pruning", str(tmp_path / "job"), world_size=2, slow_export=9.0, timeout=6.0)
    start = time.monotonic()
    assert run_apart(job) == [[0, 0]]
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
