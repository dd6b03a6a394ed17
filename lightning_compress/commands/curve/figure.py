"""The figure of a curve: the metric over the bytes of packages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from lightning_compress.commands.curve.point_job import IN_TRAINING
from lightning_compress.commands.curve.points import TECHNIQUES
from lightning_compress.commands.curve.report import AFTER_TRAINING, WORKFLOWS, Curve, Measured
from lightning_compress.commands.results import Result

_COLORS = dict(zip(TECHNIQUES, ("#0072b2", "#d55e00", "#009e73"), strict=True))
"""Okabe and Ito's, which color-blind people tell apart."""

_STYLES: dict[str, tuple[Any, str | None]] = {AFTER_TRAINING: ("--", "white"), IN_TRAINING: ("-", None)}
"""Of each workflow: the line, and the face of its markers; None for that of the line."""

_MARKERS = dict(zip(TECHNIQUES, ("o", "s", "D"), strict=True))

_LOGARITHMIC_FROM = 3.0
"""Ratio of the largest package to the smallest from which the axis of bytes is logarithmic."""

_AROUND = [
    (x * distance, y * distance)
    for distance in (9, 15, 22, 30, 40, 52)
    for x, y in ((0, 1), (0, -1), (1.2, 0), (-1.2, 0), (0.9, 0.8), (-0.9, 0.8), (0.9, -0.8), (-0.9, -0.8))
]
"""Where a label may stand, in points from its own, the best place first."""

_NEAR = 8
"""So many of them are close enough to need no line."""

_COST_OF_DISTANCE = 0.06
"""Of each place farther down that list, where a crossed line costs 1, and what covers a point or a label 10."""


def draw_curve(curve: Curve, path: Path) -> None:
    """Write the figure of a curve.

    Args:
        curve: What was measured.
        path: Of the PNG file.
    """
    curve_figure(curve).savefig(path, dpi=150)


def curve_figure(curve: Curve) -> Figure:
    """A dashed line for each technique after training, and a solid one for it in training, each point with its label.

    Args:
        curve: What was measured.
    """
    figure = Figure(figsize=(9.6, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    largest = max(row.result.package_bytes for row in curve.measured())
    unit, name = (1e6, "MB") if largest >= 1e6 else (1e3, "kB")
    _draw_levels(axes, curve, unit)
    drawn: list[Measured] = []
    for technique in TECHNIQUES:
        for workflow in WORKFLOWS:
            rows = curve.of(technique, workflow)
            if not rows:
                continue
            line, face = _STYLES[workflow]
            axes.plot(
                *zip(*(_place(row.result, unit) for row in rows), strict=True),
                color=_COLORS[technique],
                linestyle=line,
                marker=_MARKERS[technique],
                markerfacecolor=face or _COLORS[technique],
                markersize=6,
                linewidth=1.6,
                zorder=3,
            )
            drawn += rows
    _draw_axes(axes, curve, f"size of the package, {name}")
    _draw_legend(axes, curve)
    # Only then it is known where everything stands.
    figure.draw_without_rendering()
    _label(axes, drawn, curve, unit)
    return figure


def _draw_levels(axes: Axes, curve: Curve, unit: float) -> None:
    level, end = curve.reference.value, curve.worst_in_tolerance
    axes.axhspan(min(level, end), max(level, end), color="#999999", alpha=0.22, linewidth=0, zorder=0)
    axes.axhline(level, color="#444444", linewidth=1.0, zorder=1)
    axes.plot(
        *_place(curve.reference, unit),
        marker="*",
        markersize=13,
        color="#222222",
        linestyle="none",
        zorder=4,
    )


def _draw_axes(axes: Axes, curve: Curve, title: str) -> None:
    sizes = [row.result.package_bytes for row in curve.measured()]
    if max(sizes) / min(sizes) >= _LOGARITHMIC_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.08, y=0.12)
    axes.set_xlabel(title)
    better = "" if curve.higher_is_better else " (less is better)"
    axes.set_ylabel(f"{curve.metric}, measured on the package{better}")
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_legend(axes: Axes, curve: Curve) -> None:
    techniques = [
        name for name in TECHNIQUES if curve.of(name, AFTER_TRAINING) or curve.of(name, IN_TRAINING)
    ]
    entries: list[Any] = [
        Line2D([], [], color=_COLORS[name], marker=_MARKERS[name], linestyle="none", label=TECHNIQUES[name])
        for name in techniques
    ]
    for workflow, (line, face) in _STYLES.items():
        entries.append(
            Line2D(
                [],
                [],
                color="#555555",
                linestyle=line,
                marker="o",
                markerfacecolor=face or "#555555",
                label=WORKFLOWS[workflow],
            )
        )
    entries.append(Line2D([], [], color="#222222", marker="*", markersize=11, linewidth=1, label="float16"))
    entries.append(
        Line2D(
            [], [], color="#999999", alpha=0.4, linewidth=8, label=f"within {curve.tolerance:g} of float16"
        )
    )
    # Below the axes nothing is hidden by it.
    axes.figure.legend(
        handles=entries, loc="outside lower center", ncols=len(entries), frameon=False, fontsize=9
    )


def _label(axes: Axes, rows: Sequence[Measured], curve: Curve, unit: float) -> None:
    """Write beside each point what it is, off points, other labels and lines; far ones get a thin line."""
    taken = [_around(axes, row.result, unit, 6) for row in rows] + [_around(axes, curve.reference, unit, 9)]
    lines = [line.get_transform().transform_path(line.get_path()) for line in axes.get_lines()]
    inside = axes.get_window_extent()
    renderer = cast(FigureCanvasAgg, axes.figure.canvas).get_renderer()  # type: ignore[no-untyped-call]
    for row in rows:
        best: tuple[float, Annotation, Bbox] | None = None
        for rank, offset in enumerate(_AROUND):
            if best is not None and _COST_OF_DISTANCE * rank >= best[0]:
                # The others are farther away.
                break
            text = _annotation(axes, row, offset, unit, is_far=rank >= _NEAR)
            box = _text_box(text, renderer)
            overlaps = sum(box.overlaps(other) for other in taken)
            crossed = sum(bool(line.intersects_bbox(box, filled=False)) for line in lines)
            outside = not (inside.containsx(box.x0) and inside.containsx(box.x1) and inside.containsy(box.y1))
            cost = 10.0 * (overlaps + outside) + crossed + _COST_OF_DISTANCE * rank
            if best is not None and cost >= best[0]:
                text.remove()
                continue
            if best is not None:
                best[1].remove()
            best = (cost, text, box)
        assert best is not None
        taken.append(best[2])


def _annotation(
    axes: Axes, row: Measured, offset: tuple[float, float], unit: float, *, is_far: bool
) -> Annotation:
    assert row.point is not None
    return axes.annotate(
        row.point.label,
        _place(row.result, unit),
        offset,
        textcoords="offset points",
        ha=_aligned(offset[0], ("right", "center", "left")),
        va=_aligned(offset[1], ("top", "center", "bottom")),
        fontsize=8,
        color=_COLORS[row.point.technique],
        zorder=5,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "#888888"} if is_far else None,
    )


def _text_box(text: Annotation, renderer: Any) -> Bbox:
    """The extent of the words alone, without the line that leads to them."""
    text.update_positions(renderer)
    return Text.get_window_extent(text)


def _around(axes: Axes, result: Result, unit: float, distance: float) -> Bbox:
    x, y = axes.transData.transform(_place(result, unit))
    return Bbox.from_bounds(x - distance, y - distance, 2 * distance, 2 * distance)


def _aligned(offset: float, words: tuple[str, str, str]) -> Any:
    return words[0] if offset < -0.1 else words[2] if offset > 0.1 else words[1]


def _place(result: Result, unit: float) -> tuple[float, float]:
    return result.package_bytes / unit, result.value
