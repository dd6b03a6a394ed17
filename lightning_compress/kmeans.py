"""Deterministic one-dimensional k-means on counted values.

On a line, clusters are intervals, so k-means is a search for the boundaries between them, and prefix sums give the
inertia of any interval at once. A dynamic programme over all boundaries is exact (Wang and Song, "Ckmeans.1d.dp", The
R Journal, 2011) but costs seconds at 256 clusters. Here it runs over a few candidate places for each boundary, coarse
ones first and finer ones around the best found, until no boundary can move: milliseconds, within 0.1% of the optimum
on weights, and the same on every machine.
"""

from __future__ import annotations

import math
import sys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_compress.float16 import count_patterns

_TINY = sys.float_info.min

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]

_COARSE_POINTS = 384
"""Least number of places, spread as good clusters are, that the first search may put boundaries at."""

_POINTS_PER_CLUSTER = 6
"""Places for each cluster where that makes more than `_COARSE_POINTS`."""

_DENSE_CLUSTERS = 16
"""Up to this many clusters a cluster may span any number of those places; local optima are worst where they are few."""

_REACH = 48
"""With more clusters, the most places that one may span."""

_WINDOW = 8
"""Candidate places on either side of a boundary in a refinement."""

_MAX_SWEEPS = 12
"""Refinements at one spacing before going on to the next finer one."""


_PARTS = 24
"""Places within each cluster that the boundaries of its neighbours may move to."""

_LLOYD_ITERATIONS = 20
"""Lloyd's iterations at most, where they take the place of finer searches."""

_MAX_SHIFTS = 4
"""Repetitions of that move."""

_LEAST_GAIN = 1e-4
"""Share of the inertia that such a repetition must gain for another to follow."""


class ValueCounts(NamedTuple):
    """Distinct values in ascending order and how often each occurs."""

    values: FloatArray
    counts: FloatArray


def count_float16(array: npt.NDArray[np.float16]) -> ValueCounts:
    """Count the distinct values of a float16 array through a 16-bit view, without sorting the array.

    At most 65,536 values come back whatever the size of the array, so one count serves `kmeans_1d` at every number of
    clusters. Positive and negative zero count as one value.

    Args:
        array: Any shape, finite.

    Returns:
        The values, ascending, and their counts, both float64.

    Raises:
        ValueError: If the array is not float16 or holds NaN or infinity.
    """
    # Bit patterns of positive numbers ascend with their value, those of negative numbers descend.
    patterns = np.concatenate((np.arange((1 << 16) - 1, (1 << 15) - 1, -1), np.arange(1 << 15))).astype(
        np.uint16
    )
    counts = count_patterns(array)[patterns]
    present = counts > 0
    values = patterns[present].view(np.float16).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("count_float16 needs finite values; the array holds NaN or infinity")
    return ValueCounts(values, counts[present].astype(np.float64))


def kmeans_1d(
    values: npt.NDArray[np.floating],
    counts: npt.NDArray[np.generic],
    n_clusters: int,
    *,
    refine: bool = True,
) -> FloatArray:
    """Cluster counted values on a line into `n_clusters` intervals of least inertia.

    Args:
        values: Distinct finite values, ascending, shape (B,).
        counts: How often each occurs (any positive weights), shape (B,).
        n_clusters: Number of centroids.
        refine: Without it the search ends with Lloyd's iterations after its coarse pass: in a third of the time, and
            with an inertia that may be a percent over the optimum. For palettes that training goes on to change.

    Returns:
        The centroids, ascending, shape (n_clusters,), float64. With fewer distinct values than clusters the values
        themselves come back, the last one repeated; without any value, zeros.

    Raises:
        ValueError: If `n_clusters` is not positive or the shapes differ.

    Example:
        >>> kmeans_1d(np.array([0.0, 1.0, 10.0]), np.array([1, 1, 1]), 2)
        array([ 0.5, 10. ])
    """
    if n_clusters < 1:
        raise ValueError(f"n_clusters must be at least 1, not {n_clusters}")
    if values.ndim != 1 or values.shape != counts.shape:
        raise ValueError(
            f"values and counts must be of one shape (B,), not {values.shape} and {counts.shape}"
        )
    points = values.astype(np.float64)
    if points.size == 0:
        return np.zeros(n_clusters)
    if points.size <= n_clusters:
        return np.concatenate((points, np.full(n_clusters - points.size, points[-1])))
    intervals = _Intervals(points, counts.astype(np.float64))
    return intervals.means(_best_boundaries(intervals, n_clusters, refine))


def assign(values: npt.NDArray[np.floating], centroids: npt.NDArray[np.floating]) -> IndexArray:
    """Index of the nearest centroid of each value; of several equally near ones, the lowest index, as argmin has it.

    Args:
        values: Any shape.
        centroids: In any order, shape (K,).

    Returns:
        Indices into `centroids`, of the shape of `values`.
    """
    # Stable, so that of equal centroids the lowest index comes first.
    order = np.argsort(centroids, kind="stable")
    distinct, first = np.unique(centroids[order], return_index=True)
    index_of = order[first].astype(np.int64)
    if len(distinct) == 1:
        return np.full(values.shape, index_of[0], dtype=np.int64)
    right = np.clip(np.searchsorted(distinct, values), 1, len(distinct) - 1)
    to_left = np.abs(values - distinct[right - 1])
    to_right = np.abs(values - distinct[right])
    tie_goes_left = index_of[right - 1] < index_of[right]
    left = (to_left < to_right) | ((to_left == to_right) & tie_goes_left)
    indices: IndexArray = index_of[np.where(left, right - 1, right)]
    return indices


def inertia(
    values: npt.NDArray[np.floating],
    counts: npt.NDArray[np.generic],
    centroids: npt.NDArray[np.floating],
) -> float:
    """Sum of squared distances of the counted values to their nearest centroids.

    Args:
        values: Shape (B,).
        counts: Shape (B,).
        centroids: Ascending, shape (K,).
    """
    nearest = centroids.astype(np.float64)[assign(values.astype(np.float64), centroids.astype(np.float64))]
    return float(np.sum(counts.astype(np.float64) * (values - nearest) ** 2))


class _Intervals:
    """Mass, mean and inertia of any run of the sorted values, by prefix sums.

    A run is (start, stop): values[start:stop]. The values are centred and scaled to one so that neither squares of
    tiny or huge values nor a common offset spoil the differences of sums.
    """

    def __init__(self, values: FloatArray, counts: FloatArray) -> None:
        self.size = values.size
        halves = values / 2  # the range of values near the largest float is itself no float
        self._scale = min(2 * max(float(halves[-1] - halves[0]), _TINY), sys.float_info.max)
        self._offset = float(values[values.size // 2])
        points = (values / self._scale - self._offset / self._scale).astype(np.float64)
        masses = counts / counts.sum()
        self.points = points
        self.mass = self._prefix(masses)
        self._first = self._prefix(masses * points)
        self._second = self._prefix(masses * points * points)

    @staticmethod
    def _prefix(array: FloatArray) -> FloatArray:
        return np.concatenate((np.zeros(1), np.cumsum(array)))

    def inertia(self, start: IndexArray, stop: IndexArray) -> FloatArray:
        """Inertia of runs around their means, infinite for empty runs."""
        mass = self.mass[stop] - self.mass[start]
        first = self._first[stop] - self._first[start]
        empty = stop <= start
        spread = self._second[stop] - self._second[start] - first * first / np.where(empty, 1.0, mass)
        return np.where(empty, np.inf, np.maximum(spread, 0.0))

    def total(self, boundaries: IndexArray) -> float:
        """Inertia of the clustering with these boundaries."""
        return float(self.inertia(boundaries[:-1], boundaries[1:]).sum())

    def means(self, boundaries: IndexArray) -> FloatArray:
        """Means of the runs between `boundaries` (first 0, last the size), in the values' own units."""
        return np.asarray(self.scaled_means(boundaries) * self._scale + self._offset)

    def scaled_means(self, boundaries: IndexArray) -> FloatArray:
        """The same in the units of `points`."""
        start, stop = boundaries[:-1], boundaries[1:]
        mean = (self._first[stop] - self._first[start]) / (self.mass[stop] - self.mass[start])
        # A mean lies within its run; rounding of the sums must not push it out (a run of one value is that value).
        return np.clip(mean, self.points[start], self.points[stop - 1])


def _best_boundaries(intervals: _Intervals, n_clusters: int, refine: bool) -> IndexArray:
    if n_clusters == 1:
        return np.array([0, intervals.size])
    grid = _spread(intervals, min(intervals.size, max(_COARSE_POINTS, _POINTS_PER_CLUSTER * n_clusters)))
    boundaries = _search_grid(intervals, grid, n_clusters)
    if not refine:
        return _lloyd(intervals, boundaries)
    boundaries = _refine(intervals, boundaries, np.diff(grid).max())
    for _ in range(_MAX_SHIFTS):
        moved = _refine(intervals, _shift_clusters(intervals, boundaries), 1)
        gain = 1 - intervals.total(moved) / max(intervals.total(boundaries), _TINY)
        if gain > 0:
            boundaries = moved
        if gain < _LEAST_GAIN:
            break
    return boundaries


def _refine(intervals: _Intervals, boundaries: IndexArray, spacing: int) -> IndexArray:
    """Move the boundaries within windows of ever finer spacing until none moves at the finest."""
    spacing = max(1, int(spacing) // 2)
    while True:
        for _ in range(_MAX_SWEEPS):
            moved = _search_near(intervals, boundaries, spacing)
            if np.array_equal(moved, boundaries):
                break
            boundaries = moved
        if spacing == 1:
            return boundaries
        spacing = max(1, spacing // 4)


def _lloyd(intervals: _Intervals, boundaries: IndexArray) -> IndexArray:
    """Move each boundary to halfway between the means on its sides, while the inertia falls."""
    best = intervals.total(boundaries)
    for _ in range(_LLOYD_ITERATIONS):
        means = intervals.scaled_means(boundaries)
        inner = np.searchsorted(intervals.points, (means[1:] + means[:-1]) / 2)
        moved = _strictly_ascending(np.concatenate(([0], inner, [intervals.size])), intervals.size)
        total = intervals.total(moved)
        if not total < best:
            break
        boundaries, best = moved, total
    return boundaries


def _shift_clusters(intervals: _Intervals, boundaries: IndexArray) -> IndexArray:
    """The best boundaries if each may move past its neighbours, to places of equal mass within the clusters there.

    Windows of a few values cannot take a cluster from where there is one too many to where one is missing: all the
    boundaries between would have to move by a whole cluster, each to its right place.
    """
    steps = np.linspace(0, 1, _PARTS, endpoint=False)
    mass = intervals.mass[boundaries]
    wanted = mass[:-1, None] + np.diff(mass)[:, None] * steps
    places = np.clip(np.searchsorted(intervals.mass, wanted), boundaries[:-1, None], boundaries[1:, None] - 1)
    places = np.append(places.reshape(-1), boundaries[-1])
    reach = np.arange(-_PARTS - _PARTS // 4, _PARTS + _PARTS // 4 + 1)
    around = np.arange(1, boundaries.size - 1)[:, None] * _PARTS + reach
    return _search(intervals, boundaries, places[np.clip(around, 0, places.size - 1)])


def _spread(intervals: _Intervals, count: int) -> IndexArray:
    """`count` + 1 boundaries as dense as good clusters are: as the cube root of the values' density (Panter and Dite).

    The density is taken over blocks of equal mass; a share of the boundaries follows the mass alone, so that no lump
    of equal values is left without any.
    """
    blocks = min(intervals.size, max(64, 2 * count))
    edges = np.searchsorted(intervals.mass, np.linspace(0, intervals.mass[-1], blocks + 1)[1:-1])
    edges = np.unique(np.concatenate(([0], edges, [intervals.size])))
    last = np.minimum(edges, intervals.size - 1)
    width = np.diff(intervals.points[last])
    mass = np.diff(intervals.mass[edges])
    density = np.cbrt(mass * width * width)
    share = density / max(float(density.sum()), _TINY) + 0.25 * mass / mass.sum()
    reach = np.concatenate((np.zeros(1), np.cumsum(share)))
    places = np.interp(np.linspace(0, reach[-1], count + 1), reach, edges.astype(np.float64))
    boundaries = np.rint(places).astype(np.int64)
    return _strictly_ascending(boundaries, intervals.size)


def _strictly_ascending(boundaries: IndexArray, size: int) -> IndexArray:
    """The nearest boundaries from 0 to `size` with at least one value between neighbours."""
    steps = np.arange(boundaries.size)
    raised = np.maximum.accumulate(boundaries - steps) + steps
    lowered = np.minimum(raised, size - steps[::-1])
    lowered[0] = 0
    return np.asarray(lowered)


def _search_grid(intervals: _Intervals, grid: IndexArray, n_clusters: int) -> IndexArray:
    """The best boundaries among those of `grid`, for many clusters with a bound on how far one may span."""
    places = grid.size
    reach = places - 1 if n_clusters <= _DENSE_CLUSTERS else min(places - 1, _REACH)
    # cost[p, r]: the cluster that ends at place p and began `reach - r` places before.
    starts = np.arange(places)[:, None] - np.arange(reach, 0, -1)
    cost = intervals.inertia(grid[np.maximum(starts, 0)], grid[:, None])
    cost[starts < 0] = np.inf
    best = np.full(reach + places, np.inf)
    best[reach] = 0.0
    windows = np.lib.stride_tricks.sliding_window_view(best, reach)[:places]
    rows = np.arange(places)
    origins = np.empty((n_clusters, places), dtype=np.int64)
    for cluster in range(n_clusters):
        total = windows + cost
        origins[cluster] = total.argmin(axis=1)
        best[reach:] = total[rows, origins[cluster]]
    place = places - 1
    chosen = [place]
    for origin in origins[::-1]:
        place -= reach - int(origin[place])
        chosen.append(place)
    return np.asarray(grid[np.array(chosen[::-1])])


def _search_near(intervals: _Intervals, boundaries: IndexArray, spacing: int) -> IndexArray:
    """The best boundaries within a window of multiples of `spacing` around each of the present ones."""
    inner = boundaries[1:-1]
    offsets = spacing * np.arange(-_WINDOW, _WINDOW + 1)
    return _search(intervals, boundaries, inner[:, None] + offsets)


def _search(intervals: _Intervals, boundaries: IndexArray, candidates: IndexArray) -> IndexArray:
    """The best boundaries among `candidates`, a row of places for each inner boundary, the present one among them."""
    candidates = np.clip(candidates, 1, intervals.size - 1)
    rows, columns = candidates.shape
    between = intervals.inertia(candidates[:-1, :, None], candidates[1:, None, :])
    best = intervals.inertia(np.zeros_like(candidates[0]), candidates[0])
    origins = np.empty((rows, columns), dtype=np.int64)
    for index in range(rows - 1):
        total = best[:, None] + between[index]
        origins[index] = total.argmin(axis=0)
        best = total[origins[index], np.arange(columns)]
    end = best + intervals.inertia(candidates[-1], np.full_like(candidates[-1], intervals.size))
    place = int(np.argmin(end))
    # Sums in another order differ in the last bits; a move must gain more than that, or sweeps could circle.
    present = intervals.total(boundaries)
    if not end[place] < present * (1 - 1e-12) or not math.isfinite(end[place]):
        return boundaries
    moved = boundaries.copy()
    for index in range(rows - 1, -1, -1):
        moved[index + 1] = candidates[index, place]
        if index:
            place = int(origins[index - 1, place])
    return moved
