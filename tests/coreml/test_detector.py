from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import nn
from torchvision.ops import box_convert, nms

from lightning_compress import runtime
from lightning_compress.coreml import (
    CoreMLExport,
    ImageInput,
    NonMaximumSuppression,
    PostTrainingForm,
    add_metadata,
    compress_package,
)
from lightning_compress.coreml.detector import RAW_OUTPUTS
from lightning_compress.errors import ConfigurationError, PackageError
from lightning_compress.package import decompressed_weights, inspect, save_package
from lightning_compress.package.opening import open_package

LABELS = ["person", "dog"]


class Detector(nn.Module):
    """Boxes on a grid of 16 cells, two classes besides the background."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 64, 3, stride=16, padding=1)
        self.head = nn.Conv2d(64, classes + 1 + 4, 1)
        self.classes = classes

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cells = self.head(self.features(image).relu()).flatten(2).transpose(1, 2)[0]
        confidence = (cells[:, : self.classes + 1] * 5).softmax(-1)[:, 1:]
        return confidence, (cells[:, -4:] * 2).sigmoid()


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return Detector().eval()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    photograph = torch.from_numpy(load_sample_image("china.jpg").copy())
    return photograph[:64, :64].permute(2, 0, 1)[None].float()


def export(path, **keywords) -> CoreMLExport:
    settings = {
        "image": ImageInput(scale=1 / 255),
        "class_labels": LABELS,
        "nms": NonMaximumSuppression(iou_threshold=0.4, confidence_threshold=0.2),
        "compute_precision": "float32",
    }
    return CoreMLExport(path, **{**settings, **keywords})


@pytest.fixture(scope="module")
def package(detector, image, tmp_path_factory):
    path = tmp_path_factory.mktemp("detector") / "detector.mlpackage"
    return export(path, author="us", description="Finds.").run(detector, image / 255).path


def expected(detector, image, iou, least):
    """Suppression among the boxes of a class, as Core ML's specification describes it, by torchvision."""
    with torch.no_grad():
        confidence, coordinates = detector(image / 255)
    best, label = confidence.max(1)
    kept = []
    for one in range(len(LABELS)):
        index = torch.nonzero((best >= least) & (label == one)).flatten()
        kept.append(index[nms(box_convert(coordinates[index], "cxcywh", "xyxy"), best[index], iou)])
    kept = torch.cat(kept)
    kept = kept[best[kept].argsort(descending=True)]
    return confidence[kept], coordinates[kept]


def test_apps_meet_an_image_two_optional_thresholds_and_visions_outputs(package):
    report = inspect(package)
    assert [(feature.name, feature.type) for feature in report.inputs] == [
        ("image", "image RGB"),
        ("iouThreshold", "double, optional"),
        ("confidenceThreshold", "double, optional"),
    ]
    assert [feature.name for feature in report.outputs] == ["confidence", "coordinates"]
    assert report.labels == tuple(LABELS)
    assert report.author == "us"
    assert report.description == "Finds."
    assert report.user_metadata["com.apple.coreml.model.preview.type"] == "objectDetector"
    assert report.inputs[1].description == "optional; 0.4 by default"


def test_the_stages_fit_together_as_core_ml_demands(package):
    """The rules of Core ML's validator, which runs on macOS alone."""
    pipeline = open_package(package).pipeline
    program, stage = pipeline.pipeline.models
    suppression = stage.nonMaximumSuppression
    assert tuple(output.name for output in program.description.output) == RAW_OUTPUTS
    assert list(stage.description.input[:2]) == list(program.description.output)
    assert list(pipeline.description.output) == list(stage.description.output)
    assert list(pipeline.description.input)[1:] == list(stage.description.input)[2:]
    arrays = [*stage.description.input[:2], *stage.description.output]
    float32 = arrays[0].type.multiArrayType.FLOAT32
    assert all(array.type.multiArrayType.dataType == float32 for array in arrays)
    ranges = [list(output.type.multiArrayType.shapeRange.sizeRanges) for output in stage.description.output]
    assert [(r[0].lowerBound, r[0].upperBound) for r in ranges] == [(0, 16), (0, 16)]
    assert [(r[1].lowerBound, r[1].upperBound) for r in ranges] == [(2, 2), (4, 4)]
    assert suppression.pickTop.perClass
    versions = {model.specificationVersion for model in (pipeline, program, stage)}
    assert len(versions) == 1


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_the_program_gives_float32_whatever_it_computes_in(detector, image, tmp_path, precision):
    path = tmp_path / "net.mlpackage"
    export(path, compute_precision=precision, minimum_deployment_target="iOS16").run(detector, image / 255)
    outputs = open_package(path).specification.description.output
    assert [output.type.multiArrayType.dataType for output in outputs] == [
        outputs[0].type.multiArrayType.FLOAT32
    ] * 2


@pytest.mark.parametrize(("iou", "least"), [(None, None), (0.1, 0.0), (1.0, 0.3), (0.6, 0.25)])
def test_the_package_keeps_the_best_of_overlapping_boxes(package, detector, image, iou, least):
    given = {} if iou is None else {"iouThreshold": iou, "confidenceThreshold": least}
    found = runtime.load(package)(image, **given)
    confidence, coordinates = expected(detector, image, *((0.4, 0.2) if iou is None else (iou, least)))
    assert 0 < len(confidence) <= 16
    torch.testing.assert_close(found["confidence"][0], confidence, atol=1e-5, rtol=0)
    torch.testing.assert_close(found["coordinates"][0], coordinates, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("form", "technique"),
    [
        (PostTrainingForm(palettize=4), "palettized"),
        (PostTrainingForm(prune=0.5), "pruned"),
        (PostTrainingForm(quantize="int8"), "quantized"),
    ],
)
def test_a_detector_is_compressed_after_training_as_any_package(detector, image, tmp_path, form, technique):
    path = export(tmp_path / "net.mlpackage", compute_precision="float16").run(detector, image / 255).path
    (small,) = compress_package(path, [form], weight_threshold=200)
    compressed = save_package(small.model, tmp_path / "small.mlpackage")
    report = inspect(compressed)
    assert technique in {layer.technique for layer in report.layers}
    assert report.labels == tuple(LABELS)
    assert [feature.name for feature in report.outputs] == ["confidence", "coordinates"]
    outputs = runtime.load(compressed)(image, confidenceThreshold=0.0)
    assert outputs["confidence"][0].shape[1] == 2


def test_metadata_is_added_to_a_detector_too(package, tmp_path):
    before = decompressed_weights(package)
    report = add_metadata(package, {"map": 0.5}, card=False)
    assert report.user_metadata["map"] == "0.5"
    assert decompressed_weights(package).keys() == before.keys()


class TestMistakes:
    @pytest.mark.parametrize(
        ("keywords", "message"),
        [
            ({"iou_threshold": 1.5}, r"iou_threshold=1\.5 is not in \[0, 1\]"),
            ({"confidence_threshold": -1}, r"confidence_threshold=-1 is negative"),
        ],
    )
    def test_thresholds_out_of_range(self, keywords, message):
        with pytest.raises(ConfigurationError, match=message):
            NonMaximumSuppression(**keywords)

    def test_no_labels(self):
        with pytest.raises(ConfigurationError, match="nms needs class_labels"):
            export("net.mlpackage", class_labels=None).validate()

    def test_no_image(self):
        with pytest.raises(ConfigurationError, match="nms needs an image input"):
            export("net.mlpackage", image=None).validate()

    def test_other_output_names(self):
        with pytest.raises(ConfigurationError, match="outputs are 'confidence' and 'coordinates'"):
            export("net.mlpackage", output_names=["scores", "boxes"])

    def test_more_labels_than_classes(self, detector, image, tmp_path):
        wrong = export(tmp_path / "net.mlpackage", class_labels=["a", "b", "c"])
        with pytest.raises(
            ConfigurationError, match="class_labels has 3 labels for confidences of 2 classes"
        ):
            wrong.run(detector, image / 255)

    def test_one_output(self, image, tmp_path):
        with pytest.raises(ConfigurationError, match="returns 1 tensor;"):
            export(tmp_path / "net.mlpackage").run(nn.Conv2d(3, 2, 1), image / 255)

    def test_outputs_that_are_no_boxes(self, image, tmp_path):
        class Other(Detector):
            def forward(self, image):
                confidence, coordinates = super().forward(image)
                return confidence[None], coordinates[None]

        with pytest.raises(ConfigurationError, match=r"takes \(boxes, classes\) and \(boxes, 4\)"):
            export(tmp_path / "net.mlpackage").run(Other().eval(), image / 255)
        assert list(tmp_path.iterdir()) == []

    def test_a_pipeline_of_two_programs_is_not_read(self, package, tmp_path):
        import coremltools as ct

        opened = open_package(package)
        pipeline = type(opened.pipeline)()
        pipeline.CopyFrom(opened.pipeline)
        pipeline.pipeline.models[1].CopyFrom(opened.specification)
        model = ct.models.MLModel(pipeline, weights_dir=str(opened.weights_folder), skip_model_load=True)
        model.save(str(tmp_path / "two.mlpackage"))
        with pytest.raises(PackageError, match="a pipeline of mlProgram, mlProgram"):
            inspect(tmp_path / "two.mlpackage")
