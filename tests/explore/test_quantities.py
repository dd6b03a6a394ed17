"""Drops, sizes and durations as they are typed."""

from __future__ import annotations

import pytest

from lightning_compress.errors import ConfigurationError
from lightning_compress.explore.quantities import parse_drop, parse_duration, parse_size


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
