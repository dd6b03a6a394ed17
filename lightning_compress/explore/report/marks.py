"""The marks of a figure: a shape for each rung, so that colour alone tells nothing."""

from __future__ import annotations

import math

COLORS = 7
"""So many colours and shapes there are; more rungs begin again."""


def mark(series: int, radius: float) -> str:
    """A mark around the origin, as the data of an SVG path.

    Args:
        series: The place of its rung.
        radius: Half of its width, about.

    Example:
        >>> mark(2, 1)
        'M1,0L0,1L-1,0L0,-1Z'
    """
    shape = series % COLORS
    if shape == 0:
        return f"M{radius:g},0A{radius:g},{radius:g} 0 1 1 {-radius:g},0A{radius:g},{radius:g} 0 1 1 {radius:g},0Z"
    sides, first = {1: (4, 45), 2: (4, 0), 3: (3, -90), 4: (3, 90), 5: (6, 0), 6: (5, -90)}[shape]
    # A polygon of few sides looks smaller than a circle around it.
    scale = radius * {3: 1.25, 4: 1.0}.get(sides, 1.1)
    if shape == 1:
        scale = radius * 1.25
    return _polygon(sides, first, scale)


def star(radius: float) -> str:
    """The mark of the float16 package, likewise."""
    corners = [
        (radius * (1.0 if place % 2 == 0 else 0.45), math.radians(-90 + 36 * place)) for place in range(10)
    ]
    return _closed([(length * math.cos(angle), length * math.sin(angle)) for length, angle in corners])


def _polygon(sides: int, first: float, radius: float) -> str:
    angles = [math.radians(first + 360 * side / sides) for side in range(sides)]
    return _closed([(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles])


def _closed(corners: list[tuple[float, float]]) -> str:
    # Adding zero makes one of minus zero.
    points = "L".join(f"{round(x, 2) + 0:g},{round(y, 2) + 0:g}" for x, y in corners)
    return f"M{points}Z"
