"""Limits: what a package must keep, as it is typed and in numbers."""

from __future__ import annotations

import math

import pytest

from lightning_compress.errors import ConfigurationError, TargetError
from lightning_compress.explore.limits import Limits
from lightning_compress.explore.question import Asked
from lightning_compress.explore.record import Candidate


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a search needs a limit"),
        ({"max_drop": 0.01, "rungs": ["kmean"]}, "explore.rungs holds 'kmean'; did you mean 'kmeans'"),
        ({"max_drop": 0.01, "rungs": []}, "explore.rungs is empty"),
        ({"max_drop": 0.01, "share": 1.0}, "explore.share=1.0 is no share"),
        ({"max_drop": 0.01, "margin": -1}, "explore.margin=-1 is no number of standard errors from 0"),
        ({"max_drop": 0.01, "margin": math.inf}, "explore.margin=inf is no number"),
        ({"max_drop": 0.01, "samples": 0}, "explore.samples=0 is no count"),
        ({"max_drop": 0.01, "budget": "later"}, "explore.budget='later'"),
    ],
)
def test_questions_that_cannot_be_asked_are_told(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Asked(**given)  # type: ignore[arg-type]


def test_a_target_that_is_none_is_told() -> None:
    with pytest.raises(TargetError, match="'iOS99' is unknown"):
        Asked(max_drop=0.01, target="iOS99")


def _candidate(name: str, size: int, value: float, limits: Limits) -> Candidate:
    return Candidate(
        name, "kmeans", {}, None, size, size, value, limits.drop(value), limits.allow(value, size)
    )


def test_with_a_drop_the_smallest_good_package_answers_and_with_a_size_alone_the_best() -> None:
    drop = Limits(0.5, True, max_drop=0.02, max_bytes=None)
    found = [_candidate("a", 100, 0.5, drop), _candidate("b", 50, 0.49, drop), _candidate("c", 20, 0.3, drop)]
    best = drop.best(found)
    assert best is not None
    assert best.name == "b"
    size = Limits(0.5, True, max_drop=None, max_bytes=60)
    found = [_candidate("a", 100, 0.5, size), _candidate("b", 50, 0.49, size), _candidate("c", 20, 0.3, size)]
    best = size.best(found)
    assert best is not None
    assert best.name == "b"


def test_a_margin_asks_for_a_drop_that_is_within_the_limit_by_so_many_standard_errors() -> None:
    limits = Limits(0.5, True, max_drop=0.02, max_bytes=None, margin=2.0)
    assert limits.allows_value(0.49, 0.005)
    assert not limits.allows_value(0.49, 0.006)
    # Nobody knows how far it is off.
    assert limits.allows_value(0.48, None)
    assert not limits.allows_value(0.47, None)


def test_where_less_is_better_a_larger_value_is_a_drop() -> None:
    limits = Limits(1.0, False, max_drop=0.1, max_bytes=None)
    assert limits.drop(1.2) == pytest.approx(0.2)
    assert limits.allows_value(1.1)
    assert not limits.allows_value(1.2)
    assert limits.allows_value(0.5)


def test_nothing_that_is_no_number_is_good_enough() -> None:
    limits = Limits(0.5, True, max_drop=None, max_bytes=100)
    assert not limits.allows_value(math.nan)


def test_the_nearest_of_those_that_miss_is_named() -> None:
    limits = Limits(0.5, True, max_drop=0.0, max_bytes=50)
    found = [_candidate("large", 500, 0.5, limits), _candidate("close", 55, 0.49, limits)]
    nearest = limits.nearest(found)
    assert limits.best(found) is None
    assert nearest is not None
    assert nearest.name == "close"
