"""Results can be moved with their folder, and read by people and programs."""

from __future__ import annotations

import json

from rich.console import Console

from lightning_compress.commands.results import Result, results_table, write_results


def results(folder):
    return [
        Result("float16", 24_340_000, 24_250_000, "map", 0.5521, str(folder / "float16.mlpackage")),
        Result(
            "palettize_2bit", 3_210_000, 3_080_000, "map", 0.5764, str(folder / "palettize_2bit.mlpackage")
        ),
    ]


def test_results_name_packages_by_their_place_in_the_folder(tmp_path):
    write_results(results(tmp_path), tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    assert [row["package"] for row in written] == ["float16.mlpackage", "palettize_2bit.mlpackage"]
    assert [row["weight_bytes"] for row in written] == [24_250_000, 3_080_000]
    text = (tmp_path / "results.md").read_text()
    assert str(tmp_path) not in text
    assert "| name | package | weights | times smaller | map | path |" in text
    assert "| palettize_2bit | 3.21 MB | 3.08 MB | 7.58 | 0.5764 | palettize_2bit.mlpackage |" in text


def test_the_table_tells_the_bytes_of_package_and_weights(tmp_path):
    console = Console(width=120, record=True)
    console.print(results_table(results(tmp_path)))
    line = next(line for line in console.export_text().splitlines() if "palettize_2bit" in line)
    assert line.split() == ["palettize_2bit", "3.21", "MB", "3.08", "MB", "7.58", "0.5764"]
