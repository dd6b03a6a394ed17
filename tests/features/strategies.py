"""Strategies that would lose the prepared state."""

from __future__ import annotations

from types import SimpleNamespace

from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from lightning_compress.callback.strategies import check_strategy
from tests.features.cases import Case, make_trainer
from tests.features.registry import Features

feature = Features()


@feature("`ddp_spawn`, `ddp_fork`, `ddp_notebook`")
def ddp_spawn(case: Case) -> None:
    check_strategy(make_trainer(case.folder, [], strategy="ddp_spawn", devices=2))


@feature("FSDP")
def fsdp(case: Case) -> None:
    # Lightning builds no such Trainer without a GPU.
    check_strategy(SimpleNamespace(strategy=FSDPStrategy()))  # type: ignore[arg-type]


@feature("DeepSpeed")
def deepspeed(case: Case) -> None:
    # Nor such a strategy without the library.
    check_strategy(SimpleNamespace(strategy=DeepSpeedStrategy.__new__(DeepSpeedStrategy)))  # type: ignore[arg-type]
