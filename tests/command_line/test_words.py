"""What a user typed becomes what Hydra reads."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from lightning_compress.command_line.words import UnknownOptionError, quoted, sort_words
from lightning_compress.errors import ConfigurationError


@pytest.mark.parametrize(
    ("command", "word", "key"),
    [
        ("inspect", "net.mlpackage", "package"),
        ("verify", "a/b.mlpackage", "package"),
        ("export", "a.ckpt", "ckpt"),
    ],
)
def test_a_path_alone_is_the_value_of_the_key_that_a_command_is_about(command, word, key):
    assert sort_words(command, [word]).overrides == [f"{key}='{word}'"]


def test_a_path_with_an_equals_sign_is_a_path_if_it_is_there(tmp_path):
    path = tmp_path / "epoch=1-step=200.ckpt"
    path.touch()
    assert sort_words("export", [str(path)]).overrides == [f"ckpt='{path}'"]


@pytest.mark.parametrize(
    "word", ["ckpt=epoch=1-step=200.ckpt", "ckpt=my nets (old)/last.ckpt", "data.root=it's", "ckpt=a{b.ckpt"]
)
def test_values_that_hydra_stumbles_over_are_put_in_quotes(word):
    (override,) = sort_words("train", [word]).overrides
    assert OverridesParser.create().parse_override(override).value() == word.partition("=")[2]


@pytest.mark.parametrize(
    "word", ["seed=3", "post_training_bits=[6,2]", "+a.b=null", "~callbacks.checkpoint", "a=b,c"]
)
def test_what_hydra_reads_stays_as_it_is(word):
    assert sort_words("train", [word]).overrides == [word]


@given(
    st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1).filter(
        lambda text: "${" not in text
    )
)
def test_any_text_in_quotes_is_that_text(text):
    assert OverridesParser.create().parse_override(f"key={quoted(text)}").value() == text


def test_options_keep_their_values_and_are_told_from_overrides():
    words = sort_words(
        "train", ["seed=1", "--cfg", "job", "--config-dir=mine", "-m", "data=coco", "--info", "trainer=gpu"]
    )
    assert words.options == ["--cfg", "job", "--config-dir=mine", "-m", "--info"]
    assert words.overrides == ["seed=1", "data=coco", "trainer=gpu"]
    assert not words.asks_for_help


def test_help_may_stand_anywhere():
    assert sort_words("train", ["recipe=resnet50", "--help"]).asks_for_help


def test_an_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(UnknownOptionError, match=r"'--mutlirun' is no option; did you mean '--multirun'\?"):
        sort_words("train", ["--mutlirun"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed", "'seed' has no '='; lightning-compress train takes KEY=VALUE"),
        ("=3", "has no key before its '='"),
        ("post_training_bits=[6,2", r"cannot be read: .*Lists are written \[1,2\]"),
    ],
)
def test_words_that_are_no_override_are_told(word, message):
    with pytest.raises(ConfigurationError, match=message):
        sort_words("train", [word])
