"""The figure of the metric over bytes: where everything stands on a sheet of a given width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from matplotlib.ticker import LogLocator, MaxNLocator

from lightning_compress.explore.front import front
from lightning_compress.explore.record import Candidate, Exploration
from lightning_compress.explore.report.candidates import CandidateRow
from lightning_compress.explore.report.words import metric, size

_LOGARITHMIC_FROM = 3.0
"""Ratio of the largest size to the smallest from which the axis of bytes is logarithmic."""

_FLATTENED_FROM = 8.0
"""So many times the drop that was asked for, the whole figure shows what matters as a line."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 12.0, 14.0, 46.0

_OF_DECADES = ((1.0,), (2.0, 5.0), (3.0,), (1.5, 4.0, 7.0))
"""What is written at a logarithmic axis, in each decade, the more the more room there is."""

_CHARACTER, _LINE, _LONGEST_NAME = 7.5, 16.0, 28
"""Of names in the figure: about the width of a character, the height of a line, and the most characters."""

_BETWEEN_TICKS = 40.0
"""The least distance of two labels of the axis of bytes."""


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: where it is, and what stands there."""

    place: float
    text: str


@dataclass(frozen=True)
class Point:
    """A candidate in the figure.

    Attributes:
        x: Where it is.
        y: Where it is.
        row: Its row of the table.
        ends: Of the bar of one standard error of its drop, from it, upwards and downwards; None for no bar.
    """

    x: float
    y: float
    row: CandidateRow
    ends: tuple[float, float] | None = None


@dataclass(frozen=True)
class Label:
    """A name beside a point; `anchor` is SVG's "start" or "end"."""

    x: float
    y: float
    anchor: str
    text: str


@dataclass(frozen=True)
class Plot:
    """The figure, in units of its sheet, from the left and the top.

    Attributes:
        width: Of the sheet.
        height: Of the sheet.
        left: Where the plotted part begins.
        right: Where it ends.
        top: Where it begins.
        bottom: Where it ends.
        unit: "MB" or "kB", the unit of bytes.
        x_ticks: Of the axis of bytes.
        y_ticks: Of the axis of the metric.
        points: The candidates.
        steps: The best metric that each size reaches, as the points of an SVG polyline; empty for none.
        float_level: Of the metric of float16.
        worst: Of the worst metric that was asked for; None for no limit.
        largest: Of the largest package that was asked for; None for no limit.
        labels: Names beside points.
        left_out: How many candidates lie outside.
    """

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    unit: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    points: Sequence[Point]
    steps: str
    float_level: float | None
    worst: float | None
    largest: float | None
    labels: Sequence[Label]
    left_out: int


def plot(exploration: Exploration, rows: Sequence[CandidateRow], width: float, height: float) -> Plot:
    """All candidates.

    Args:
        exploration: What a search found, with one candidate at least.
        rows: Those of its candidates.
        width: Of the sheet.
        height: Of the sheet.
    """
    values = [row.candidate.value for row in rows if math.isfinite(row.candidate.value)]
    limit = worst_value(exploration)
    values += [] if limit is None else [limit]
    return _plot(
        exploration, rows, (width, height), _padded(min(values, default=0.0), max(values, default=1.0))
    )


def plot_near_the_limit(
    exploration: Exploration, rows: Sequence[CandidateRow], width: float, height: float
) -> Plot | None:
    """Those near the worst metric that was asked for; None where the whole figure shows them well enough.

    Args:
        exploration: What a search found, with one candidate at least.
        rows: Those of its candidates.
        width: Of the sheet.
        height: Of the sheet.
    """
    drop, limit = exploration.question.max_drop, worst_value(exploration)
    values = [row.candidate.value for row in rows if math.isfinite(row.candidate.value)]
    if not drop or limit is None or max(values) - min(values) < _FLATTENED_FROM * drop:
        return None
    sign = 1.0 if exploration.question.higher_is_better else -1.0
    level = exploration.reference.value
    best = max(values, key=lambda value: sign * value)
    better = min(sign * (best - level), 2 * drop)
    ends = (level - sign * 3 * drop, level + sign * max(better, 0.0))
    return _plot(exploration, rows, (width, height), _padded(min(ends), max(ends)))


def worst_value(exploration: Exploration) -> float | None:
    """The worst metric that was asked for; None for no limit, or where float has none.

    Args:
        exploration: What a search found.
    """
    drop, level = exploration.question.max_drop, exploration.reference.value
    if drop is None or not math.isfinite(level):
        return None
    return level - drop if exploration.question.higher_is_better else level + drop


def _plot(
    exploration: Exploration,
    rows: Sequence[CandidateRow],
    sheet: tuple[float, float],
    y_range: tuple[float, float],
) -> Plot:
    width, height = sheet
    left, right, top, bottom = _LEFT, width - _RIGHT, _TOP, height - _BOTTOM
    low, high = y_range
    inside = [row for row in rows if low <= row.candidate.value <= high]
    sizes = [row.candidate.package_bytes for row in inside or rows]
    most = exploration.question.max_bytes
    sizes += [] if most is None else [most]
    factor, unit = (1e6, "MB") if max(sizes) >= 1e6 else (1e3, "kB")
    place_x, x_ticks = _axis_of_bytes(sizes, factor, left, right)

    def place_y(value: float) -> float:
        return round(bottom - (value - low) / (high - low) * (bottom - top), 1)

    def bar(candidate: Candidate) -> tuple[float, float] | None:
        value, error = candidate.value, candidate.drop_error
        if not error:
            return None
        upper, lower = min(value + error, high), max(value - error, low)
        return place_y(upper) - place_y(value), place_y(lower) - place_y(value)

    points = [
        Point(place_x(row.candidate.package_bytes), place_y(row.candidate.value), row, bar(row.candidate))
        for row in inside
    ]
    best = [candidate for candidate in front(exploration) if low <= candidate.value <= high]
    level, limit = exploration.reference.value, worst_value(exploration)
    return Plot(
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        unit=unit,
        x_ticks=x_ticks,
        y_ticks=_ticks(low, high, place_y),
        points=points,
        steps=_steps(best, place_x, place_y, right),
        float_level=place_y(level) if math.isfinite(level) else None,
        worst=None if limit is None else place_y(limit),
        largest=None if most is None else place_x(most),
        labels=_labels(points, upwards=exploration.question.higher_is_better),
        left_out=len(rows) - len(points),
    )


def description(exploration: Exploration, drawn: Plot) -> str:
    """What the figure shows, for whoever does not see it.

    Args:
        exploration: What a search found.
        drawn: The figure.
    """
    reference = exploration.reference
    return (
        f"{exploration.question.metric} over the size of the package, {len(drawn.points)} of "
        f"{len(exploration.candidates)} candidates; float16 has {metric(reference.value)} in "
        f"{size(reference.package_bytes)}. All numbers are in the table of candidates."
    )


def _axis_of_bytes(
    sizes: Sequence[int], factor: float, left: float, right: float
) -> tuple[Callable[[float], float], list[Tick]]:
    low, high = max(min(sizes), 1) / factor, max(max(sizes), 1) / factor
    is_logarithmic = high / low >= _LOGARITHMIC_FROM
    # A package at the edge is cut in half.
    margin = (high / low) ** 0.06 if is_logarithmic else 0.08 * (high - low) or 0.1 * high
    low, high = (low / margin, high * margin) if is_logarithmic else (max(low - margin, 0.0), high + margin)

    def scaled(value: float) -> float:
        return math.log(value) if is_logarithmic else value

    def place(count: float) -> float:
        share = (scaled(max(count, 1) / factor) - scaled(low)) / (scaled(high) - scaled(low))
        return round(left + share * (right - left), 1)

    if is_logarithmic:
        found = [value for subs in _OF_DECADES for value in LogLocator(subs=subs).tick_values(low, high)]
    else:
        found = list(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    ticks = [Tick(place(value * factor), f"{value:g}") for value in found if low <= value <= high]
    return place, _with_room(ticks)


def _with_room(ticks: Sequence[Tick]) -> list[Tick]:
    """Those that have room beside the ones before them in the list, in the order of their places."""
    kept: list[Tick] = []
    for tick in ticks:
        if all(abs(tick.place - other.place) >= _BETWEEN_TICKS for other in kept):
            kept.append(tick)
    return sorted(kept, key=lambda tick: tick.place)


def _ticks(low: float, high: float, place: Callable[[float], float]) -> list[Tick]:
    values = [float(value) for value in MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
    return [Tick(place(value), f"{round(value, 10):g}") for value in values if low <= value <= high]


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _steps(
    found: Sequence[Candidate],
    place_x: Callable[[float], float],
    place_y: Callable[[float], float],
    right: float,
) -> str:
    """A staircase: between two packages a size reaches what the smaller one reaches, and no line in between."""
    corners: list[tuple[float, float]] = []
    for candidate in found:
        x, y = place_x(candidate.package_bytes), place_y(candidate.value)
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    if corners:
        corners.append((right, corners[-1][1]))
    return " ".join(f"{x:g},{y:g}" for x, y in corners)


def _labels(points: Sequence[Point], *, upwards: bool) -> list[Label]:
    """The names of float16 and of the package that the report is about.

    They stand on the side of smaller and better packages, where there are none.
    """
    named = sorted(
        (point for point in points if point.row.is_reference or point.row.is_subject),
        key=lambda point: point.row.is_subject,
    )
    labels: list[Label] = []
    for point in named:
        text = point.row.candidate.name
        text = text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"
        above, below = point.y - 13, point.y + 22
        wanted, other = (above, below) if upwards else (below, above)
        width = len(text) * _CHARACTER
        fits = point.x - width > _LEFT
        label = Label(point.x - 4 if fits else point.x + 4, wanted, "end" if fits else "start", text)
        if any(_meet(label, before) for before in labels):
            label = replace(label, y=other)
        labels.append(label)
    return labels


def _meet(one: Label, other: Label) -> bool:
    (first, last), (begin, end) = _extent(one), _extent(other)
    return first < end and begin < last and abs(one.y - other.y) < _LINE


def _extent(label: Label) -> tuple[float, float]:
    width = len(label.text) * _CHARACTER
    return (label.x - width, label.x) if label.anchor == "end" else (label.x, label.x + width)
