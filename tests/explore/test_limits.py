"""Limits: what a package must keep, as it is typed and in numbers."""

from __future__ import annotations

import math

import pytest

from lightning_compress.errors import ConfigurationError, TargetError
from lightning_compress.explore.limits import Limits
from lightning_compress.explore.quantities import parse_drop, parse_duration, parse_size
from lightning_compress.explore.question import Asked
from lightning_compress.explore.record import Candidate


@pytest.mark.parametrize(
    ("typed", "size"),
    [("4MB", 4_000_000), ("3.5 MiB", 3_670_016), ("900kb", 900_000), (4000, 4000), ("12", 12)],
)
def test_sizes_are_read_as_people_write_them(typed: str | int, size: int) -> None:
    assert parse_size(typed, "explore.max_size") == size


@pytest.mark.parametrize("typed", ["4 parsecs", "MB", "-4MB", "0", "", True, "nan"])
def test_what_is_no_size_is_told(typed: str | bool) -> None:
    with pytest.raises(ConfigurationError, match=r"explore\.max_size=.* is no size.*4MB"):
        parse_size(typed, "explore.max_size")


@pytest.mark.parametrize(
    ("typed", "seconds"), [("2h", 7200), ("1.5min", 90), ("90s", 90), (90, 90), ("3 m", 180)]
)
def test_durations_are_read_as_people_write_them(typed: str | int, seconds: float) -> None:
    assert parse_duration(typed, "explore.budget") == seconds


def test_what_is_no_duration_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"explore\.budget='soon' is no duration"):
        parse_duration("soon", "explore.budget")


def test_a_drop_is_in_the_unit_of_the_metric_or_a_share_of_floats() -> None:
    assert parse_drop(0.01, 0.5, "explore.max_drop") == 0.01
    assert parse_drop("1%", 0.5, "explore.max_drop") == pytest.approx(0.005)
    for typed in ("-0.1", "much", "nan", True):
        with pytest.raises(ConfigurationError, match=r"explore\.max_drop=.* is no drop"):
            parse_drop(typed, 0.5, "explore.max_drop")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a search needs a limit"),
        ({"max_drop": 0.01, "rungs": ["kmean"]}, "explore.rungs holds 'kmean'; did you mean 'kmeans'"),
        ({"max_drop": 0.01, "rungs": []}, "explore.rungs is empty"),
        ({"max_drop": 0.01, "share": 1.0}, "explore.share=1.0 is no share"),
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
