"""Text of unknown origin that is shown carries nothing that a terminal obeys."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_compress.untrusted_text import plain_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("a\x1b]0;title\x07b", "ab"),
        ("a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\b", "alinkb"),
        ("a\x1bPdevice\x1b\\b", "ab"),
        ("a\x1bcb\x1b(0c", "abc"),
        ("gone\x1b[2J\x1b[H", "gone"),
        ("\x1b", ""),
        ("\x1b[", ""),
        ("bell\x07 back\x08 delete\x7f null\x00", "bell back delete null"),
        ("abc\u202egnp.exe", "abcgnp.exe"),
        ("\ud800", "\N{REPLACEMENT CHARACTER}"),
        ("one\r\ntwo\rthree\tfour", "one\ntwo\nthree\tfour"),
        ("grüße 猫 👩\u200d🔬 [red] <b> ж", "grüße 猫 👩\u200d🔬 [red] <b> ж"),
    ],
)
def test_what_a_terminal_obeys_is_taken_out(text: str, shown: str) -> None:
    assert plain_text(text) == shown


def test_a_string_without_an_end_takes_no_other_line_with_it() -> None:
    assert plain_text("a\x1b]0;title\nnext line") == "a\nnext line"


@given(st.text() | st.text(alphabet="\x1b\x9b\x9d[]0;1mPc\\\x07\n\rab"))
def test_no_control_character_is_left_and_a_second_time_changes_nothing(text: str) -> None:
    shown = plain_text(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    assert plain_text(shown) == shown
    shown.encode()
