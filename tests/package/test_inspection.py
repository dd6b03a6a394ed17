from __future__ import annotations

import io

import pytest
from rich.console import Console

from lightning_compress.coreml import CoreMLExport, ImageInput, softmax_outputs
from lightning_compress.coreml.post_training import palettize_package
from lightning_compress.package.inspection import inspect
from lightning_compress.package.rendering import format_bytes, render


@pytest.fixture(scope="module")
def package(build_network, digit, tmp_path_factory):
    export = CoreMLExport(
        tmp_path_factory.mktemp("package") / "digits.mlpackage",
        image=ImageInput(scale=1 / 255, color_layout="GRAYSCALE"),
        class_labels=[f"digit {index}" for index in range(10)],
        wrapper=softmax_outputs,
        author="Ada [bold]",
    )
    return export.run(build_network(), digit).path


def test_a_report_counts_operations_most_frequent_first(package):
    operations = inspect(package).operations
    assert operations["conv"] == 2
    assert operations["linear"] == 2
    assert list(operations.values()) == sorted(operations.values(), reverse=True)


def test_a_report_names_each_weight_once(package):
    names = [layer.name for layer in inspect(package).layers]
    assert len(set(names)) == len(names)
    # The bias comes of the batch normalization that is fused with the first convolution.
    assert names[:2] == ["0.weight", "conv_0.bias"]
    # A package has no dots in its names; the metadata know what torch calls them.
    assert "3.weight" in names


def test_the_parts_sum_up_to_the_whole(package):
    report = inspect(package)
    assert sum(layer.stored_bytes for layer in report.layers) == pytest.approx(report.weight_bytes, rel=0.02)


def test_a_model_in_memory_is_described_like_its_package(package):
    model = palettize_package(package, [4])[4]
    layer = next(layer for layer in inspect(model).layers if layer.name == "3.weight")
    assert (layer.technique, layer.bits, layer.distinct_values) == ("palettized", 4, 16)
    assert layer.stored_bytes == layer.parameters // 2 + 2 * 16
    assert layer.float16_bytes / layer.stored_bytes == pytest.approx(4, rel=0.01)


def test_a_report_is_printed_with_everything_in_it(package):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render(inspect(palettize_package(package, [4])[4])))
    text = console.export_text()
    for part in (
        "iOS16 / macOS13 and later",
        "image GRAYSCALE",
        "8x8",
        "0.00392",
        "classLabel_probs",
        "10: digit 0, digit 1",
        "Ada [bold]",
        "3.weight",
        "palettized, 4 bits, per tensor",
        "18,432",
        "softmax",
        "sum",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (51_095_106, "51.1 MB"),
        (999_960, "1.0 MB"),
        (2e10, "20.0 GB"),
    ],
)
def test_bytes_are_counted_in_thousands(count, text):
    assert format_bytes(count) == text
