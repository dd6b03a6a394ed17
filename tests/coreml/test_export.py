from __future__ import annotations

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from lightning_compress import runtime
from lightning_compress.coreml import CoreMLExport, ImageInput, softmax_outputs
from lightning_compress.errors import ConfigurationError, TargetError, TraceError, WeightError
from lightning_compress.package import Capability, inspect
from lightning_compress.package.inspection import decompressed_weights


def test_a_classifier_arrives_with_its_labels_descriptions_and_metadata(network, digit, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"digit {index}" for index in range(10)))
    export = CoreMLExport(
        tmp_path / "digits.mlpackage",
        image=ImageInput(scale=1 / 255, color_layout="GRAYSCALE"),
        class_labels=labels,
        author="Ada",
        license="Apache-2.0",
        description="Reads a digit.",
        version="1.2",
        input_descriptions={"image": "A digit, white on black."},
        output_descriptions={"classLabel": "The digit."},
        user_metadata={"accuracy": 0.97},
        wrapper=softmax_outputs,
    )
    export.validate()
    exported = export.run(network, digit)
    report = inspect(exported.path)
    assert report == exported.report
    assert report.labels == tuple(f"digit {index}" for index in range(10))
    assert (report.author, report.license, report.description, report.version) == (
        "Ada",
        "Apache-2.0",
        "Reads a digit.",
        "1.2",
    )
    assert report.inputs[0].description == "A digit, white on black."
    assert {feature.name: feature.description for feature in report.outputs}["classLabel"] == "The digit."
    assert report.user_metadata["accuracy"] == "0.97"
    assert "softmax" in report.operations


def test_the_package_computes_what_the_network_computes(network, digits, tmp_path):
    exported = CoreMLExport(tmp_path / "net.mlpackage").run(network, digits[:1])
    found = runtime.load(exported.path)(input=digits[7:8])["output"]
    torch.testing.assert_close(found, network(digits[7:8]), atol=2e-3, rtol=2e-3)


def test_without_compression_the_sizes_are_those_of_the_float16_model(network, digit, tmp_path):
    exported = CoreMLExport(tmp_path / "net.mlpackage").run(network, digit)
    assert exported.weight_bytes == pytest.approx(exported.float16_weight_bytes, rel=0.01)
    assert exported.package_bytes > exported.weight_bytes
    assert exported.package_bytes == sum(f.stat().st_size for f in exported.path.rglob("*") if f.is_file())
    assert exported.target == "iOS15 / macOS12"


def test_a_failed_conversion_leaves_the_earlier_package(network, digit, tmp_path):
    export = CoreMLExport(tmp_path / "net.mlpackage")
    path = export.run(network, digit).path
    before = decompressed_weights(path)
    with pytest.raises(TraceError):
        export.run(network, torch.rand(1, 3, 8, 8))
    assert decompressed_weights(path).keys() == before.keys()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net.md", "net.mlpackage"]


def test_a_weight_that_is_not_a_number_is_named(network, digit, tmp_path):
    with torch.no_grad():
        network[3].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(WeightError, match=r"'3\.weight' holds NaN or infinity"):
        CoreMLExport(tmp_path / "net.mlpackage").run(network, digit)


def test_validation_finds_a_target_too_low_before_training(tmp_path):
    export = CoreMLExport(tmp_path / "net.mlpackage", minimum_deployment_target="iOS16")
    export.validate({Capability.LUT})
    with pytest.raises(TargetError, match=r"iOS16.*3 bits.*iOS18"):
        export.validate({Capability.LUT_3_BIT})


def test_validation_finds_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        CoreMLExport(tmp_path / "file" / "net.mlpackage").validate()


def test_validation_finds_a_missing_label_file(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        CoreMLExport(tmp_path / "net.mlpackage", class_labels=tmp_path / "none.txt").validate()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"path": "net.onnx"}, ConfigurationError, r"path='net\.onnx' does not end in '\.mlpackage'"),
        ({"minimum_deployment_target": "iOS99"}, TargetError, "'iOS99' is unknown"),
        ({"compute_precision": "int8"}, ConfigurationError, "compute_precision='int8' .* float16, float32"),
        ({"input_names": "image"}, ConfigurationError, "input_names='image' is a string"),
        ({"input_names": ["my image"]}, ConfigurationError, "input_names holds 'my image'"),
        ({"output_names": ["a", "a"]}, ConfigurationError, "output_names=.* more than once"),
        (
            {"class_labels": ["a"], "output_names": ["b"]},
            ConfigurationError,
            "cannot be given with class_labels",
        ),
        ({"wrapper": "softmax"}, ConfigurationError, "wrapper='softmax'; valid is a function"),
    ],
)
def test_values_that_cannot_be_used_are_refused_when_given(options, error, message):
    with pytest.raises(error, match=message):
        CoreMLExport(**{"path": "net.mlpackage", **options})


def test_a_description_of_an_input_that_is_not_there_is_refused(network, digit, tmp_path):
    export = CoreMLExport(tmp_path / "net.mlpackage", input_descriptions={"picture": "?"})
    with pytest.raises(ConfigurationError, match="input_descriptions names 'picture'; the package has input"):
        export.run(network, digit)
    assert list(tmp_path.iterdir()) == []


def test_hydra_can_make_one_from_plain_types(network, digit, tmp_path):
    export = hydra.utils.instantiate(
        OmegaConf.create(
            {
                "_target_": "lightning_compress.CoreMLExport",
                "path": str(tmp_path / "net.mlpackage"),
                "minimum_deployment_target": "macOS13",
                "image": {
                    "_target_": "lightning_compress.coreml.ImageInput",
                    "scale": [1 / 255],
                    "bias": 0,
                    "color_layout": "GRAYSCALE",
                },
                "input_names": ["digit"],
                "class_labels": [f"digit {index}" for index in range(10)],
                "input_descriptions": {"digit": "A digit."},
                "user_metadata": {"epochs": 3},
                "wrapper": {
                    "_target_": "hydra.utils.get_method",
                    "path": "lightning_compress.coreml.softmax_outputs",
                },
            }
        )
    )
    export.validate({Capability.LUT})
    report = export.run(network, digit).report
    assert report.target == "iOS16 / macOS13"
    assert (report.inputs[0].name, report.inputs[0].description) == ("digit", "A digit.")
    assert report.user_metadata["epochs"] == "3"
