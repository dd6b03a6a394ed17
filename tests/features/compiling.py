"""`torch.compile` before and after a fit."""

from __future__ import annotations

import torch

from tests.features.cases import Case, Digits
from tests.features.registry import Features

feature = Features()


@feature("`torch.compile` of the module or the LightningModule, before the fit")
def compiled_before(case: Case) -> None:
    module = Digits()
    module.model = torch.compile(module.model, backend="eager")
    case.fit(module=module)
    case.check()
    whole = Case(case.method, case.folder)
    whole.fit(module=torch.compile(Digits(), backend="eager"))
    whole.check()


@feature("`torch.compile` after the fit")
def compiled_after(case: Case) -> None:
    case.fit()
    finalized = case.compression.finalized
    assert finalized is not None
    compiled = torch.compile(finalized, backend="eager")
    images = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), finalized(images))
