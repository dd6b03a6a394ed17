"""Options of an optimizer step: accumulation, clipping, precision."""

from __future__ import annotations

import warnings

from tests.features.cases import STEPS, Case, steps_of
from tests.features.registry import Features

feature = Features()


@feature("`accumulate_grad_batches`")
def gradient_accumulation(case: Case) -> None:
    case.fit(accumulate_grad_batches=2, max_epochs=4)
    assert steps_of(case) == STEPS
    case.check()


@feature("`gradient_clip_val`, by norm and by value")
def gradient_clipping(case: Case) -> None:
    for algorithm in ("norm", "value"):
        fresh = Case(case.method, case.folder)
        fresh.fit(gradient_clip_val=0.1, gradient_clip_algorithm=algorithm)
        fresh.check()


@feature('`precision="16-mixed"` (on a CPU, where Lightning makes it bf16-mixed)')
def half_mixed(case: Case) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You passed `Trainer\\(accelerator='cpu', precision='16-mixed'\\)`")
        case.fit(precision="16-mixed")
    case.check()


@feature('`precision="bf16-mixed"`')
def bfloat16_mixed(case: Case) -> None:
    case.fit(precision="bf16-mixed")
    case.check()


@feature('`precision="bf16-true"`')
def bfloat16_true(case: Case) -> None:
    case.fit(precision="bf16-true")
    case.check(tolerance=0.1)
