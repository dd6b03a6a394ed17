"""Comments of configuration files are found by key."""

from __future__ import annotations

from importlib.resources import files

import pytest

from lightning_compress.command_line.comments import comments_of, heading_of, read_comments

TEXT = """\
# @package _global_
# What the file is,
# in two lines.
defaults:
  - base
  - _self_

# Of the first.
first: 1
second: [1, 2] # behind it
# Above,
third: "a # b" # and behind.
# Of the block.
fourth:
  # Inside.
  inner: null
  plain: text
"""


def test_comments_belong_to_the_key_below_and_beside_them():
    commented = read_comments(TEXT)
    assert commented.heading == "What the file is, in two lines."
    assert commented.is_global
    assert commented.inherits == ("base",)
    assert commented.names == ("defaults", "first", "second", "third", "fourth")
    assert commented.keys == {
        "first": "Of the first.",
        "second": "behind it",
        "third": "Above, and behind.",
        "fourth": "Of the block.",
        "fourth.inner": "Inside.",
    }


def test_a_file_of_a_group_is_read_with_what_it_builds_on():
    comments = comments_of("train", {"export": "image"})
    assert comments["export.path"].startswith("Where to write the package")
    assert "1 / 255" in comments["export.image.scale"]
    assert "seed" not in comments_of("inspect", {})


CHOICES = [
    f"{folder.name}/{file.name.removesuffix('.yaml')}"
    for folder in files("lightning_compress.conf").iterdir()
    if folder.is_dir()
    for file in folder.iterdir()
    if file.name.endswith(".yaml")
]


@pytest.mark.parametrize("choice", sorted(CHOICES))
def test_each_choice_says_what_it_is(choice):
    assert heading_of(choice)
