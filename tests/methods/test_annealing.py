"""A temperature that falls: by step, within a fit, and across a checkpoint."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_compress import Compression, DKMPalettization
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.annealing import Annealing
from lightning_compress.methods.mechanism.schedule import FitLength

temperatures = st.floats(1e-8, 1e-1)


@given(
    first=temperatures,
    share=st.floats(1e-6, 1),
    begin=st.floats(0, 0.9),
    length=st.integers(2, 200),
)
def test_it_falls_by_one_factor_a_step_from_the_first_temperature_to_the_last(first, share, begin, length):
    annealing = Annealing(palett_tau=first * share, begin_step=begin)
    temperature = annealing.resolve(first, FitLength(length), "test")
    reached = [temperature.at(step) for step in range(length + 1)]
    begins = round(begin * length)
    assert reached[: begins + 1] == pytest.approx([first] * (begins + 1))
    assert reached[-1] == pytest.approx(first * share)
    factors = [
        math.log(one / other) for one, other in zip(reached[begins:-1], reached[begins + 1 :], strict=True)
    ]
    assert factors == pytest.approx([factors[0]] * len(factors), abs=1e-6)


def test_after_its_end_it_stays():
    temperature = Annealing(palett_tau=1e-6, begin_step=2, end_step=4).resolve(1e-4, FitLength(10), "test")
    assert [temperature.at(step) for step in (0, 2, 3, 4, 10)] == pytest.approx(
        [1e-4, 1e-4, 1e-5, 1e-6, 1e-6]
    )


def gap(digit_module, digit_data, make_trainer, **keys) -> float:
    compression = Compression(DKMPalettization(n_bits=2, palett_tau=1e-3, **keys))
    trainer = make_trainer(compression, log_every_n_steps=1)
    trainer.fit(digit_module, datamodule=digit_data)
    return float(trainer.callback_metrics["compression/assignment_gap"])


def test_a_fit_ends_with_what_evaluation_computes(digit_module, digit_data, make_trainer):
    assert gap(digit_module, digit_data, make_trainer, annealing={"palett_tau": 1e-7}) < 0.02


def test_without_it_a_fit_does_not(digit_module, digit_data, make_trainer):
    assert gap(digit_module, digit_data, make_trainer) > 0.05


@pytest.mark.parametrize(
    ("annealing", "message"),
    [
        (1e-6, "valid is null, or a mapping with palett_tau"),
        ({"begin_step": 0.1}, "valid is null, or a mapping with palett_tau"),
        ({"palett_tau": 1e-6, "begin": 0.1}, "did you mean 'begin_step'"),
        ({"palett_tau": 1e-3}, "at most the palett_tau that it falls from, 0.0001"),
        ({"palett_tau": 0}, "valid is a float above 0"),
        ({"palett_tau": True}, "valid is a float above 0"),
        ({"palett_tau": 1e-6, "begin_step": 0.5, "end_step": 0.5}, "not after its begin_step"),
        ({"palett_tau": 1e-6, "end_step": 1.5}, "a float from 0.0 to 1.0"),
    ],
)
def test_what_cannot_be_is_refused(annealing, message):
    with pytest.raises(ConfigurationError, match=f"annealing of DKMPalettization.*{message}"):
        DKMPalettization(n_bits=2, annealing=annealing)


def test_one_that_ends_after_the_fit_is_refused(digit_module, digit_data, make_trainer):
    compression = Compression(DKMPalettization(n_bits=2, annealing={"palett_tau": 1e-6, "end_step": 10**6}))
    with pytest.raises(
        ConfigurationError, match="annealing of .*ends at optimizer step 1000000, but the fit"
    ):
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
