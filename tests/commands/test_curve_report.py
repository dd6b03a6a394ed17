"""The table and the figure of a curve, of numbers as they come of a network that breaks."""

from __future__ import annotations

import itertools
import json

import pytest
from matplotlib.text import Annotation, Text
from omegaconf import OmegaConf

from lightning_compress.commands.curve.figure import curve_figure
from lightning_compress.commands.curve.points import points_after_training
from lightning_compress.commands.curve.report import Curve, write_curve
from lightning_compress.commands.results import Result

FLOAT = 6_400_000
VALUES = {
    "prune_10": (0.70, 0.71),
    "prune_30": (0.69, 0.71),
    "prune_40": (0.64, 0.709),
    "prune_50": (0.41, 0.705),
    "prune_75": (0.09, 0.692),
    "prune_90": (0.05, 0.61),
    "palettize_8bit": (0.703, 0.711),
    "palettize_6bit": (0.69, 0.709),
    "palettize_4bit": (0.38, 0.704),
    "palettize_2bit": (0.06, 0.681),
    "palettize_1bit": (0.05, 0.55),
    "quantize_int8": (0.70, 0.708),
}
"""The metric of each point, after training and in training; that of float is 0.703."""


def share(name: str) -> float:
    """About what a package of this name has of the bytes of the float16 package."""
    if name.startswith("prune"):
        return 1 - float(name.removeprefix("prune_")) / 100 + 1 / 16
    return (int(name[10]) if name.startswith("palettize") else 8) / 16 + 0.015


def result(name: str, size: float, value: float) -> Result:
    return Result(name, int(size), int(size * 0.95), "miou", value, f"/run/{name}.mlpackage")


def curve(*, higher_is_better: bool = True) -> Curve:
    asked = {"sparsities": [0.1, 0.3, 0.4, 0.5, 0.75, 0.9], "bits": [8, 6, 4, 2, 1], "int8": True}
    points = {point.name: point for point in points_after_training(OmegaConf.create(asked))}
    assert set(points) == set(VALUES)
    results = {"float16": result("float16", FLOAT, 0.703)}
    for name, values in VALUES.items():
        for workflow, value, extra in zip(("after_training", "in_training"), values, (1, 1.01), strict=True):
            results[f"{workflow}/{name}"] = result(f"{workflow}/{name}", FLOAT * share(name) * extra, value)
    return Curve(results, points, "val/miou", 0.03, higher_is_better)


def test_every_point_has_a_label_that_no_other_one_covers():
    figure = curve_figure(curve())
    (axes,) = figure.axes
    renderer = figure.canvas.get_renderer()
    labels = [child for child in axes.get_children() if isinstance(child, Annotation)]
    assert len(labels) == 2 * len(VALUES)
    boxes = {}
    for number, label in enumerate(labels):
        label.update_positions(renderer)
        boxes[number, label.get_text()] = Text.get_window_extent(label, renderer)
    inside = axes.get_window_extent(renderer)
    assert all(inside.containsx(box.x0) and inside.containsx(box.x1) for box in boxes.values())
    for (one, first), (other, second) in itertools.combinations(boxes.items(), 2):
        assert not first.overlaps(second), (one, other)


def test_each_technique_has_a_dashed_line_and_a_solid_one_of_one_color():
    (axes,) = curve_figure(curve()).axes
    lines = [
        (line.get_color(), line.get_linestyle()) for line in axes.get_lines() if len(line.get_xdata()) > 2
    ]
    (first, dashed), (second, solid), *palettes = lines
    assert (dashed, solid) == ("--", "-")
    assert first == second
    assert [style for _, style in palettes] == ["--", "-"]
    assert palettes[0][0] == palettes[1][0] != first


def test_packages_of_similar_sizes_stand_on_a_linear_axis():
    whole = curve()
    near = {name: value for name, value in whole.results.items() if "prune_1" in name or name == "float16"}
    (axes,) = curve_figure(Curve(near, whole.points, "val/miou", 0.03, True)).axes
    assert axes.get_xscale() == "linear"
    (wide,) = curve_figure(whole).axes
    assert wide.get_xscale() == "log"


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_drop_is_what_is_worse_than_float(tmp_path, higher_is_better):
    write_curve(curve(higher_is_better=higher_is_better), tmp_path)
    content = json.loads((tmp_path / "curve.json").read_text())
    drops = {(entry["point"], entry["workflow"]): entry["drop"] for entry in content["points"]}
    sign = 1 if higher_is_better else -1
    assert drops["prune_50", "after_training"] == pytest.approx(sign * (0.703 - 0.41))
    assert drops["float16", None] == 0
