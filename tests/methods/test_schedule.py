"""Steps and fractions of the fit."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.schedule import FitLength, check_point, expand_range


@given(steps=st.integers(1, 10**7), fraction=st.floats(0, 1))
def test_a_fraction_lies_inside_the_fit(steps, fraction):
    assert 0 <= FitLength(steps).step_of(fraction, "test") <= steps


@given(step=st.integers(0, 10**9))
def test_steps_stay_what_they_are_even_where_the_fit_has_no_end(step):
    assert FitLength(math.inf).step_of(step, "test") == step


@pytest.mark.parametrize("steps", [math.inf, -1])
def test_a_fraction_needs_a_length(steps):
    with pytest.raises(ConfigurationError, match="max_steps or max_epochs"):
        FitLength(steps).step_of(0.5, "test")


def test_a_schedule_may_end_with_the_fit_and_not_after():
    FitLength(10).check(10, "test")
    with pytest.raises(ConfigurationError, match="ends at optimizer step 11, but the fit has 10"):
        FitLength(10).check(11, "test")
    FitLength(1, rehearsal=True).check(11, "test")


@pytest.mark.parametrize("value", [-1, 1.01, -0.5, float("nan"), "3", None, True])
def test_what_is_no_point_is_refused(value):
    with pytest.raises(ConfigurationError, match="begin is"):
        check_point(value, "begin")


@given(start=st.integers(0, 50), length=st.integers(1, 50), step=st.integers(1, 9))
def test_ranges_are_python_ranges(start, length, step):
    text = f"range({start}, {start + length}, {step})"
    assert expand_range(text, "test") == list(range(start, start + length, step))
