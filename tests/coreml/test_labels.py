from __future__ import annotations

import pytest

from lightning_compress.coreml.labels import read_labels
from lightning_compress.errors import ConfigurationError


def test_labels_come_from_a_list_in_its_order():
    assert read_labels(["zebra", "ape", 3]) == ["zebra", "ape", "3"]


def test_labels_come_from_a_file_with_one_a_line(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("zebra\n  größter Affe \nape\n\n", encoding="utf-8")
    assert read_labels(file) == ["zebra", "größter Affe", "ape"]
    assert read_labels(str(file)) == read_labels(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.txt' cannot be read"):
        read_labels(tmp_path / "none.txt")


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigurationError, match=r"labels\.txt' cannot be read"):
        read_labels(tmp_path / "labels.txt")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "holds no label"),
        (["a", " "], "label 1 of class_labels is blank"),
        (["a", "b", "a"], "'a' more than once"),
    ],
)
def test_labels_that_cannot_serve_are_refused(labels, message):
    with pytest.raises(ConfigurationError, match=message):
        read_labels(labels)
