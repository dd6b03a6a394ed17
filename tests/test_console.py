from __future__ import annotations

from rich.table import Table

from lightning_compress.console import FILE_WIDTH, print_whole


def table_of(name: str) -> Table:
    table = Table("layer", "which")
    table.add_row(name, "weight")
    return table


def test_a_table_in_a_file_is_as_wide_as_it_needs_to_be(capsys):
    name = "backbone." * 60
    print_whole(table_of(name), table_of("short"))
    lines = capsys.readouterr().out.splitlines()
    assert any(name in line and "weight" in line for line in lines)
    assert len(name) > FILE_WIDTH


def test_columns_that_the_environment_names_do_not_fold_a_table_in_a_file(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    name = "layer." * 20
    print_whole(table_of(name))
    assert any(name in line for line in capsys.readouterr().out.splitlines())
