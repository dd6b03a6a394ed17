"""How long a fit is, and who takes its steps."""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
from torch import Tensor

from tests.features.cases import STEPS, Case, Digits, steps_of
from tests.features.registry import Features

feature = Features()


@feature("`limit_train_batches`")
def limit_train_batches(case: Case) -> None:
    case.fit(limit_train_batches=2, max_epochs=4)
    assert steps_of(case) == STEPS
    case.check()


@feature("`fast_dev_run`")
def fast_dev_run(case: Case) -> None:
    case.fit(fast_dev_run=True)
    assert case.compression.finalized is not None


@feature("`overfit_batches`")
def overfit_batches(case: Case) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You requested to overfit but enabled")
        case.fit(overfit_batches=2, max_epochs=4)
    assert steps_of(case) == STEPS
    case.check()


@feature("`max_time`")
def max_time(case: Case) -> None:
    module = Digits()
    module.on_train_batch_end = lambda *arguments: time.sleep(0.2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = case.fit(module=module, max_epochs=1000, max_time={"seconds": 1})
    assert 0 < trainer.global_step < 4000
    assert any("before the compression did" in str(entry.message) for entry in caught)


@feature("a fit called twice")
def fit_twice(case: Case) -> None:
    module = Digits()
    case.fit(module=module)
    case.check()
    case.fit(module=module)
    assert steps_of(case) == 2 * STEPS
    case.check()


@feature("manual optimization")
def manual_optimization(case: Case) -> None:
    class Manual(Digits):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    case.fit(module=Manual())
    assert steps_of(case) == STEPS
    case.check()


@feature("several optimizers")
def several_optimizers(case: Case) -> None:
    class Two(Digits):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            parameters = list(self.parameters())
            return [torch.optim.SGD(half, lr=0.01) for half in (parameters[:2], parameters[2:])]

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            first, second = self.optimizers()
            first.zero_grad()
            second.zero_grad()
            self.manual_backward(self.loss(batch))
            first.step()
            second.step()

    for settings in ({}, {"max_epochs": -1, "max_steps": 2 * STEPS}):
        fresh = Case(case.method, case.folder)
        trainer = fresh.fit(module=Two(), **settings)
        assert trainer.global_step == 2 * STEPS
        assert steps_of(fresh) == STEPS
        fresh.check()
