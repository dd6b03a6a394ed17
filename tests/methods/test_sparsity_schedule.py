"""Sparsity by optimizer step, held against coremltools' schedulers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from coremltools.optimize.torch.pruning import ConstantSparsityScheduler, PolynomialDecayScheduler
from hypothesis import given
from hypothesis import strategies as st

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.schedule import FitLength
from lightning_compress.methods.sparsity_schedule import check_schedule, resolve_schedule

sparsities = st.floats(0, 0.99)


def levels(schedule, steps, initial, target):
    found, level = [], initial
    for step in range(1, steps + 1):
        level = schedule.level(step, level, initial, target)
        found.append(level)
    return found


@given(
    steps=st.lists(st.integers(0, 40), min_size=1, max_size=8, unique=True).map(sorted),
    power=st.integers(1, 4),
    initial=sparsities,
    target=sparsities,
)
def test_update_steps_are_coremltools_polynomial_decay(steps, power, initial, target):
    if steps == [0]:
        return
    ours = resolve_schedule({"update_steps": steps, "power": power}, FitLength(50), "test")
    theirs = PolynomialDecayScheduler(update_steps=steps, power=power)
    config = SimpleNamespace(initial_sparsity=initial, target_sparsity=target)
    level, expected = initial, []
    for step in range(1, 51):
        level = theirs.compute_sparsity(step, level, config)
        expected.append(level)
    assert levels(ours, 50, initial, target) == expected
    assert ours.last_step == steps[-1]


@given(begin=st.integers(0, 40), initial=sparsities, target=sparsities)
def test_begin_step_alone_is_coremltools_constant_sparsity(begin, initial, target):
    ours = resolve_schedule({"begin_step": begin}, FitLength(50), "test")
    theirs = ConstantSparsityScheduler(begin_step=begin)
    config = SimpleNamespace(target_sparsity=target)
    level, expected = initial, []
    for step in range(1, 51):
        level = theirs.compute_sparsity(step, level, config)
        expected.append(level)
    assert levels(ours, 50, initial, target) == expected
    assert ours.last_step == max(begin, 1)


@given(
    fit=st.integers(1, 500),
    points=st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda pair: pair[0] < pair[1]),
    updates=st.integers(1, 80),
    target=st.floats(0.1, 0.99),
)
def test_fractions_rise_to_the_target_where_they_say(fit, points, updates, target):
    begin, end = points
    keys = {"begin_step": begin, "end_step": end, "updates": updates}
    schedule = resolve_schedule(keys, FitLength(fit), "test")
    found = levels(schedule, fit, 0.0, target)
    last = max(round(end * fit), 1)
    assert schedule.last_step == last
    assert found == sorted(found)
    assert found[last - 1] == target
    assert all(level < target for level in found[: last - 1])
    assert all(level == 0.0 for level in found[: max(round(begin * fit), 1) - 1])
    assert len(set(schedule.updates)) <= updates + 1


def test_without_keys_the_target_holds_from_the_first_step():
    assert levels(resolve_schedule(None, FitLength(3), "test"), 3, 0.1, 0.5) == [0.5] * 3


@pytest.mark.parametrize(
    "keys", [{"begin_step": 11}, {"begin_step": 2, "end_step": 11}, {"update_steps": [3, 11]}]
)
def test_a_schedule_that_outlasts_the_fit_is_refused(keys):
    with pytest.raises(ConfigurationError, match="test ends at optimizer step 11, but the fit has 10"):
        resolve_schedule(keys, FitLength(10), "test")


@pytest.mark.parametrize(
    "keys", [{"update_steps": [2.5, 6.5]}, {"update_steps": [[2, 3], [3, 5]]}, {"update_steps": [-2, 0, 2]}]
)
def test_steps_that_coremltools_refuses_are_refused(keys):
    with pytest.raises(ConfigurationError, match="update_steps in scheduler of test is"):
        check_schedule(keys, "test")
