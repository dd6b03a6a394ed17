"""Pipelines: a detector with Core ML's own non-maximum suppression behind it, and programs in a row."""

from __future__ import annotations

import gc
import shutil
import warnings

import coremltools as ct
import pytest
import torch
from torch import nn

from lightning_compress import runtime
from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.errors import PackageError

BOXES = 6


class Detector(nn.Module):
    """Scores and boxes of one image without a batch axis, as Vision expects them."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, BOXES * 6)

    def forward(self, image):
        values = self.head(image.flatten(1)).reshape(BOXES, 6)
        return values[:, :2].sigmoid(), values[:, 2:].sigmoid()


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    network = Detector().eval()
    nn.init.normal_(network.head.weight, std=0.2)
    return network


def converted(network, inputs, outputs, example):
    with quiet_conversion(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ct.convert(
            torch.jit.trace(network, example),
            inputs=inputs,
            outputs=outputs,
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        )


def pipeline_of(first, others, path, outputs):
    """Save a package whose specification is a pipeline of `first` and of the specifications in `others`."""
    with quiet_conversion():
        first.save(str(path))
        del first
        gc.collect()
    file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    program = ct.utils.load_spec(str(file))
    specification = ct.proto.Model_pb2.Model()
    specification.specificationVersion = program.specificationVersion
    specification.description.input.extend(program.description.input)
    for model in (program, *others):
        specification.pipeline.models.add().CopyFrom(model)
    for name in outputs:
        specification.description.output.add().name = name
    file.write_bytes(specification.SerializeToString())
    return path


def suppression(**options):
    model = ct.proto.Model_pb2.Model()
    model.specificationVersion = 7
    nms = model.nonMaximumSuppression
    nms.confidenceInputFeatureName, nms.coordinatesInputFeatureName = "raw_confidence", "raw_coordinates"
    nms.confidenceOutputFeatureName, nms.coordinatesOutputFeatureName = "confidence", "coordinates"
    nms.iouThresholdInputFeatureName, nms.confidenceThresholdInputFeatureName = (
        "iouThreshold",
        "confidenceThreshold",
    )
    nms.iouThreshold, nms.confidenceThreshold = options.get("iou", 0.4), options.get("confidence", 0.5)
    nms.pickTop.perClass = options.get("per_class", True)
    nms.stringClassLabels.vector.extend(["digit", "letter"])
    return model


@pytest.fixture(scope="module")
def package(detector, tmp_path_factory):
    model = converted(
        detector,
        [ct.ImageType("image", shape=(1, 3, 8, 8), scale=1 / 255)],
        [ct.TensorType("raw_confidence"), ct.TensorType("raw_coordinates")],
        torch.rand(1, 3, 8, 8),
    )
    path = tmp_path_factory.mktemp("pipeline") / "detector.mlpackage"
    return pipeline_of(model, [suppression()], path, ["confidence", "coordinates"])


def kept_by_hand(scores, boxes, iou, least):
    """Positions that greedy suppression within classes keeps."""
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    kept = []
    for i in scores.max(1).values.argsort(descending=True).tolist():
        if scores[i].max() < least:
            continue
        for j in kept:
            sides = (
                torch.minimum(corners[i, 2:], corners[j, 2:]) - torch.maximum(corners[i, :2], corners[j, :2])
            ).clamp(0)
            inner = sides.prod()
            union = boxes[i, 2:].prod() + boxes[j, 2:].prod() - inner
            if scores[i].argmax() == scores[j].argmax() and inner / union > iou:
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize(("iou", "least"), [(None, None), (0.1, 0.3), (0.9, 0.0)])
def test_a_detector_suppresses_boxes_of_each_image(detector, package, iou, least):
    module = runtime.load(package)
    assert module.class_labels == ("digit", "letter")
    assert [item.name for item in module.inputs] == ["image"]
    images = torch.rand(4, 3, 8, 8) * 255
    thresholds = {} if iou is None else {"iouThreshold": iou, "confidenceThreshold": least}
    outputs = module(images, **thresholds)
    assert list(outputs) == ["confidence", "coordinates"]
    for n, image in enumerate(images):
        with torch.no_grad():
            scores, boxes = detector(image[None] / 255)
        kept = kept_by_hand(scores, boxes, 0.4 if iou is None else iou, 0.5 if least is None else least)
        torch.testing.assert_close(outputs["confidence"][n], scores[kept], atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(outputs["coordinates"][n], boxes[kept], atol=2e-3, rtol=2e-3)
        alone = module(image[None], **thresholds)
        torch.testing.assert_close(alone["confidence"][0], outputs["confidence"][n])
    assert len(module.decompressed_weights()) == 2


def test_programs_in_a_row(tmp_path):
    first = converted(
        nn.ReLU(), [ct.TensorType("x", shape=(1, 4))], [ct.TensorType("middle")], torch.rand(1, 4)
    )
    second = converted(
        nn.Tanh(), [ct.TensorType("middle", shape=(1, 4))], [ct.TensorType("y")], torch.rand(1, 4)
    )
    package = pipeline_of(first, [second.get_spec()], tmp_path / "row.mlpackage", ["y"])
    module = runtime.load(package)
    x = torch.randn(3, 4)
    torch.testing.assert_close(module(x=x)["y"], torch.tanh(torch.relu(x)), atol=1e-3, rtol=1e-3)


def test_a_threshold_out_of_range_or_a_wrong_name(package):
    module = runtime.load(package)
    image = torch.rand(1, 3, 8, 8)
    with pytest.raises(PackageError, match=r"'iouThreshold' of .* got 40\.0; valid: 0 to 1"):
        module(image, iouThreshold=40)
    with pytest.raises(PackageError, match=r"'confidenceThreshold' of .* got -1\.0; valid: 0 or more"):
        module(image, confidenceThreshold=-1)
    with pytest.raises(PackageError, match="no input 'confidence'"):
        module(image, confidence=0.5)


def test_a_pipeline_with_a_model_of_another_type(package, tmp_path):
    copied = shutil.copytree(package, tmp_path / "other.mlpackage")
    file = copied / "Data" / "com.apple.CoreML" / "model.mlmodel"
    specification = ct.utils.load_spec(str(file))
    other = ct.proto.Model_pb2.Model()
    other.specificationVersion = 7
    other.normalizer.normType = 1
    specification.pipeline.models.add().CopyFrom(other)
    file.write_bytes(specification.SerializeToString())
    with pytest.raises(PackageError, match="Model 2 of the pipeline .* is of type 'normalizer'"):
        runtime.load(copied)


def test_a_pipeline_whose_models_do_not_fit(package, tmp_path):
    copied = shutil.copytree(package, tmp_path / "loose.mlpackage")
    file = copied / "Data" / "com.apple.CoreML" / "model.mlmodel"
    specification = ct.utils.load_spec(str(file))
    specification.pipeline.models[1].nonMaximumSuppression.confidenceInputFeatureName = "probability"
    file.write_bytes(specification.SerializeToString())
    with pytest.raises(PackageError, match="Model 1 of the pipeline .* needs 'probability'"):
        runtime.load(copied)
