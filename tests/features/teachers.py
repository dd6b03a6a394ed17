"""A teacher that the module is drawn to while it is compressed."""

from __future__ import annotations

import dataclasses

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_compress import Compression, Distillation
from tests.faults.jobs import Job, differing_tensors, package_bytes, run_apart
from tests.features.cases import METHODS, Case, Digits, equal
from tests.features.registry import Features

feature = Features()


class Taught(Case):
    """A case with a teacher, of outputs and of batch norm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        distillation = Distillation(weight=0.5, warm_up=0.25, modules=["norm"])
        self.compression = Compression(*METHODS[self.method](), module="model", distillation=distillation)


@feature("`Distillation`, with accumulation, clipping and `bf16-mixed`")
def teacher(case: Case) -> None:
    for settings in (
        {},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1},
        {"precision": "bf16-mixed"},
    ):
        taught = Taught(case.method, case.folder)
        taught.fit(**settings)
        taught.check()
        assert taught.compression._distilling is not None
        assert taught.compression._distilling.distance is not None


@feature("`Distillation`, `torch.compile` before the fit")
def compiled_teacher(case: Case) -> None:
    taught = Taught(case.method, case.folder)
    module = Digits()
    module.model = torch.compile(module.model, backend="eager")  # type: ignore[assignment]
    taught.fit(module=module)
    taught.check()


@feature("`Distillation`, `load_from_checkpoint`, which holds no teacher")
def load_without_teacher(case: Case) -> None:
    taught = Taught(case.method, case.folder)
    taught.fit(ModelCheckpoint(case.folder, save_last=True), enable_checkpointing=True)
    loaded = Compression.load_from_checkpoint(case.folder / "last.ckpt", Digits())
    expected, actual = taught.compression.finalized, loaded.finalize()
    assert expected is not None
    assert equal(expected.state_dict(), actual.state_dict())


@feature("`Distillation`, resume from a checkpoint within an epoch: the same package")
def resume(case: Case) -> None:
    straight = Job(case.method, str(case.folder / "straight"), is_taught=True)
    stopped = Job(case.method, str(case.folder / "stopped"), stop_after=3, is_taught=True)
    resumed = dataclasses.replace(stopped, stop_after=None)
    assert run_apart(straight, stopped, resumed) == [[0], [1], [0]]
    assert package_bytes(resumed.package) == package_bytes(straight.package)


@feature("`Distillation`, DDP on two processes: the same tensors on all after every epoch")
def ddp(case: Case) -> None:
    job = Job(case.method, str(case.folder / "2"), world_size=2, is_taught=True)
    assert run_apart(job) == [[0, 0]]
    assert differing_tensors(job) == []


@feature("`Distillation`, manual optimization")
def manual_optimization(case: Case) -> None:
    module = Digits()
    module.automatic_optimization = False
    Taught(case.method, case.folder).fit(module=module)
