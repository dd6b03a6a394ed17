"""The help of a command names its groups, their choices, its keys and what they mean."""

from __future__ import annotations

import pytest

from lightning_compress.command_line.commands import COMMANDS
from lightning_compress.command_line.composing import compose_command, leaves
from lightning_compress.command_line.help_page import overview, page


def test_the_overview_names_each_command_and_how_it_is_called():
    text = overview()
    for name, command in COMMANDS.items():
        assert name in text
        assert command.summary in text
        assert command.example in text


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_holds_every_group_choice_and_key(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    composition = compose_command(command, [])
    text = page(command, composition)
    for group, options in composition.options.items():
        assert f"\n  {group}\n" in text
        assert all(f" {option}" in text for option in options)
    for key, _, _ in leaves(composition.config):
        if not any(part.startswith("_") for part in key.split(".")) and not key.endswith(
            ("export.path", "save_dir")
        ):
            assert f"{key}=" in text or f"{key.rpartition('.')[0]}=" in text, key


def test_the_page_is_that_of_the_choices_given():
    text = page("train", compose_command("train", ["recipe=resnet50", "data=image_folder"]))
    assert "* resnet50" in text
    assert "data.root=…" in text
    assert "label_smoothing" in text
    assert "nms" not in text


def test_a_key_stands_with_its_comment():
    text = " ".join(page("verify", compose_command("verify", [])).split())
    assert (
        "samples=16 How many samples are compared output by output; random ones are always the same few."
        in text
    )
