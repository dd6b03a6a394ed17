from __future__ import annotations

from lightning_compress.markdown import markdown_table


def test_a_table_has_its_numbers_to_the_right_and_no_cell_breaks_it():
    assert markdown_table(["name", "bytes"], [["a|b", "12"], ["two\nlines", "3"]], right=["bytes"]) == (
        "| name | bytes |\n|---|---:|\n| a\\|b | 12 |\n| two lines | 3 |"
    )
