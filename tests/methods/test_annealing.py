"""A temperature that falls: by step, within a fit, and across a checkpoint."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_compress import Compression, DKMPalettization
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.annealing import Annealing
from lightning_compress.methods.mechanism.schedule import FitLength


@given(factor=st.floats(1e-6, 1), begin=st.floats(0, 0.9), length=st.integers(1, 200))
@example(factor=0.5, begin=0.75, length=2)
def test_it_falls_by_one_factor_a_step_between_its_points(factor, begin, length):
    cooling = Annealing(factor, begin_step=begin).resolve(FitLength(length), "test")
    reached = [cooling.at(step) for step in range(length + 1)]
    begins = min(round(begin * length), length - 1)
    assert reached[: begins + 1] == [1] * (begins + 1)
    assert reached[-1] == pytest.approx(factor)
    factors = [
        math.log(one / other) for one, other in zip(reached[begins:-1], reached[begins + 1 :], strict=True)
    ]
    assert factors == pytest.approx([factors[0]] * len(factors), abs=1e-6)


def test_after_its_end_it_stays():
    cooling = Annealing(0.01, begin_step=2, end_step=4).resolve(FitLength(10), "test")
    assert [cooling.at(step) for step in (0, 2, 3, 4, 10)] == pytest.approx([1, 1, 0.1, 0.01, 0.01])


def gap(digit_module, digit_data, make_trainer, **keys) -> float:
    compression = Compression(DKMPalettization(n_bits=2, palett_tau=1e-3, **keys))
    trainer = make_trainer(compression, log_every_n_steps=1)
    trainer.fit(digit_module, datamodule=digit_data)
    return float(trainer.callback_metrics["compression/assignment_gap"])


def test_a_fit_ends_with_what_evaluation_computes(digit_module, digit_data, make_trainer):
    # From 0.01 to 0.03, as rounding has it: a few weights are caught between two entries.
    assert gap(digit_module, digit_data, make_trainer, annealing={"factor": 1e-4}) < 0.04


def test_without_it_a_fit_does_not(digit_module, digit_data, make_trainer):
    assert gap(digit_module, digit_data, make_trainer) > 0.05


@pytest.mark.parametrize(
    ("annealing", "message"),
    [
        (1e-6, "valid is null, or a mapping with factor"),
        ({"begin_step": 0.1}, "valid is null, or a mapping with factor"),
        ({"factor": 0.1, "begin": 0.1}, "did you mean 'begin_step'"),
        ({"factor": 2}, "valid is a float above 0 and at most 1"),
        ({"factor": 0}, "valid is a float above 0 and at most 1"),
        ({"factor": True}, "valid is a float above 0 and at most 1"),
        ({"factor": 0.1, "begin_step": 0.5, "end_step": 0.5}, "not after its begin_step"),
        ({"factor": 0.1, "end_step": 1.5}, "a float from 0.0 to 1.0"),
    ],
)
def test_what_cannot_be_is_refused(annealing, message):
    with pytest.raises(ConfigurationError, match=f"annealing of DKMPalettization.*{message}"):
        DKMPalettization(n_bits=2, annealing=annealing)


def test_one_that_would_begin_as_the_fit_ends_is_refused():
    with pytest.raises(ConfigurationError, match="test ends at optimizer step 11, but the fit has 10"):
        Annealing(0.1, begin_step=10).resolve(FitLength(10), "test")


def test_one_that_ends_after_the_fit_is_refused(digit_module, digit_data, make_trainer):
    compression = Compression(DKMPalettization(n_bits=2, annealing={"factor": 0.1, "end_step": 10**6}))
    with pytest.raises(
        ConfigurationError, match="annealing of .*ends at optimizer step 1000000, but the fit"
    ):
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
