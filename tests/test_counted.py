from __future__ import annotations

import pytest

from lightning_compress.counted import counted


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1, "label"), "1 label"),
        ((0, "label"), "0 labels"),
        ((5120, "label"), "5,120 labels"),
        ((2, "class", "classes"), "2 classes"),
    ],
)
def test_one_thing_has_a_singular(arguments, text):
    assert counted(*arguments) == text
