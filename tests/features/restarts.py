"""What a compression keeps across processes and checkpoints."""

from __future__ import annotations

import dataclasses

from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_compress import Compression
from tests.faults.jobs import Job, differing_tensors, package_bytes, run_apart
from tests.features.cases import Case, Digits, equal
from tests.features.registry import Features

feature = Features()


@feature("resume from a checkpoint within an epoch and at its end: the same package")
def resume(case: Case) -> None:
    straight = Job(case.method, str(case.folder / "straight"))
    stopped = [Job(case.method, str(case.folder / str(step)), stop_after=step) for step in (3, 4)]
    resumed = [dataclasses.replace(job, stop_after=None) for job in stopped]
    assert run_apart(straight, *stopped, *resumed) == [[0], [1], [1], [0], [0]]
    assert all(package_bytes(job.package) == package_bytes(straight.package) for job in resumed)


@feature("DDP on two and three processes: the same tensors on all after every epoch")
def ddp(case: Case) -> None:
    jobs = [Job(case.method, str(case.folder / str(count)), world_size=count) for count in (2, 3)]
    assert run_apart(*jobs) == [[0, 0], [0, 0, 0]]
    assert [differing_tensors(job) for job in jobs] == [[], []]


@feature("`load_from_checkpoint`")
def load_from_checkpoint(case: Case) -> None:
    saving = ModelCheckpoint(case.folder, save_last=True)
    case.fit(saving, enable_checkpointing=True)
    loaded = Compression.load_from_checkpoint(case.folder / "last.ckpt", Digits())
    expected, actual = case.compression.finalized, loaded.finalize()
    assert expected is not None
    assert equal(expected.state_dict(), actual.state_dict())
