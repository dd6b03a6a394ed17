from __future__ import annotations

import json

import pytest

from lightning_compress.coreml import (
    CoreMLExport,
    ImageInput,
    add_metadata,
    model_card,
    palettize_package,
    softmax_outputs,
)
from lightning_compress.errors import PackageError
from lightning_compress.package import inspect, save_package


@pytest.fixture
def classifier(network, digit, tmp_path):
    return CoreMLExport(
        tmp_path / "digits.mlpackage",
        image=ImageInput(scale=1 / 255, color_layout="GRAYSCALE"),
        class_labels=[str(label) for label in range(10)],
        wrapper=softmax_outputs,
        author="A | B",
        license="MIT",
        description="Reads digits.",
        version="1.2",
        input_descriptions={"image": "A digit."},
    ).run(network, digit)


def test_a_card_lies_beside_the_package(classifier):
    card = classifier.path.with_suffix(".md")
    assert card.read_text(encoding="utf-8") == model_card(inspect(classifier.path))


def test_no_card_is_written_where_none_is_asked_for(network, digit, tmp_path):
    CoreMLExport(tmp_path / "net.mlpackage", card=False).run(network, digit)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.mlpackage"]


def test_a_card_says_what_the_package_is(classifier):
    card = model_card(classifier.report)
    assert card.startswith("# digits\n\nReads digits.")
    for line in (
        "| runs on | iOS15 / macOS12 and later |",
        "| author | A \\| B |",
        "| license | MIT |",
        "| version | 1.2 |",
        "| input | `image` | image GRAYSCALE | 8 x 8 | A digit. |",
        "10 labels: 0, 1, 2",
    ):
        assert line in card
    assert "VNClassificationObservation" in card
    assert "VNCoreMLModel(for: digits(" in card
    assert "com.github.apple" not in card


def test_a_card_shows_compression_by_layer(classifier, tmp_path):
    model = palettize_package(classifier.path, [2])[2]
    card = model_card(inspect(save_package(model, tmp_path / "small.mlpackage")))
    assert "palettized, 2 bits, per tensor" in card


def test_metrics_and_the_training_configuration_come_from_the_metadata(classifier):
    before = classifier.path.with_suffix(".md").read_text(encoding="utf-8")
    report = add_metadata(
        classifier.path,
        {"metrics": json.dumps({"accuracy": 0.97654, "images": 360}), "training": json.dumps({"seed": 1})},
    )
    assert report.user_metadata["metrics"] == '{"accuracy": 0.97654, "images": 360}'
    card = classifier.path.with_suffix(".md").read_text(encoding="utf-8")
    assert card != before
    assert "| accuracy | 0.9765 |\n| images | 360 |" in card
    assert 'training:\n\n```\n{\n  "seed": 1\n}\n```' in card


@pytest.mark.parametrize(
    ("metrics", "shown"), [("0.97 on digits", "0.97 on digits"), ("[1, 2]", r"\[1, 2\]")]
)
def test_metrics_in_words_are_shown_as_they_are(classifier, metrics, shown):
    add_metadata(classifier.path, {"metrics": metrics})
    assert f"## Metrics\n\n{shown}" in classifier.path.with_suffix(".md").read_text(encoding="utf-8")


def test_a_network_that_vision_does_not_take_is_called_by_itself(network, digit, tmp_path):
    report = CoreMLExport(tmp_path / "2 bits.mlpackage").run(network, digit).report
    card = model_card(report)
    assert "let model = try _2_bits(configuration: MLModelConfiguration())" in card
    assert "let result = try model.prediction(input: input)" in card
    assert "MLMultiArray, 1 x 1 x 8 x 8" in card


def test_metadata_of_what_is_no_package(tmp_path):
    with pytest.raises(PackageError, match="There is no Core ML package at"):
        add_metadata(tmp_path / "none.mlpackage", {"a": 1})
