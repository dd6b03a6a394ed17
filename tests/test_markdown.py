"""What others wrote comes out of Markdown as they wrote it, and as nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from lightning_compress.markdown import code_block, code_span, escaped, escaped_inside, markdown_table
from lightning_compress.untrusted_text import plain_text

HARMLESS = {"inline", "text", "softbreak", "paragraph_open", "paragraph_close"}
TEXTS = st.text(alphabet="ab1 \n\t`*_[](){}<>&~|$#+-=.!:/\\\"'", max_size=40)


def parsed(text: str) -> list[Token]:
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    return [part for token in tokens for part in (token, *(token.children or ()))]


def shown(text: str) -> str:
    return "".join(token.content for token in parsed(text) if token.type == "text")


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[click](javascript:alert(1))",
        "![picture](https://tracker.example/x.png)",
        "<https://example.com>",
        "# heading\n- list\n1. list\n> quote\n---\n===",
        "```\ncode\n```",
        "    indented",
        "a | b\n--|--\n1 | 2",
        "&lt;b&gt; *a* _b_ ~~c~~ `d`",
        "[x]: https://example.com\n\n[x]",
    ],
)
def test_nothing_in_a_text_is_obeyed(text):
    assert {token.type for token in parsed(escaped(text))} <= HARMLESS


@given(TEXTS)
def test_any_text_is_shown_as_it_is(text):
    assert {token.type for token in parsed(escaped(text))} <= HARMLESS
    assert "".join(shown(escaped(text)).split()) == "".join(text.split())


def test_an_ordinary_description_stays_as_it_is_to_read():
    text = "Reads digits, 8 x 8 (version 1.2): 97.5% right; ask us!"
    assert escaped(text) == text


def test_bare_addresses_become_no_links():
    assert escaped("https://x.org or www.x.org") == r"https\://x.org or www\.x.org"


@given(TEXTS)
def test_a_span_of_code_holds_all_of_a_text(text):
    spans = [token for token in parsed(f"a {code_span(text)} b") if token.type == "code_inline"]
    assert len(spans) == 1
    assert spans[0].content.split() == plain_text(text).split()


@given(TEXTS)
def test_a_block_of_code_holds_all_of_a_text(text):
    blocks = [token for token in parsed(f"a\n\n{code_block(text)}\n\nb") if token.type == "fence"]
    assert [block.content for block in blocks] == [f"{plain_text(text)}\n"]


def test_a_table_has_its_numbers_to_the_right_and_no_cell_breaks_it():
    assert markdown_table(["name", "bytes"], [["a|b", "12"], ["two\nlines", "3"]], right=["bytes"]) == (
        "| name | bytes |\n|---|---:|\n| a\\|b | 12 |\n| two lines | 3 |"
    )


@given(st.lists(TEXTS, min_size=2, max_size=2))
def test_a_row_keeps_its_cells_and_shows_them_as_they_are(cells):
    name, text = (" ".join(cell.split()) for cell in cells)
    tokens = parsed(markdown_table(["one", "two"], [[code_span(name), escaped_inside(text)]]))
    assert sum(token.type == "td_open" for token in tokens) == 2
    shown = "".join(token.content for token in tokens if token.type == "text")
    assert "".join(shown.split()) == "onetwo" + "".join(text.split())


def test_a_number_in_a_cell_has_no_backslash():
    assert escaped_inside("-0.004 ± 0.001") == "-0.004 ± 0.001"
