from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_compress.coreml import CoreMLExport, ImageInput, NonMaximumSuppression
from lightning_compress.errors import ConfigurationError
from lightning_compress.recipes.data.boxes import DigitsDetectionDataModule
from lightning_compress.recipes.ssd_resnet18 import ObjectDetector
from lightning_compress.runtime import load
from lightning_compress.tasks import Detection, InPlace

SIDE = 64
IMAGE = ImageInput(scale=1 / 255)


@pytest.fixture(scope="module")
def detector() -> ObjectDetector:
    torch.manual_seed(0)
    return ObjectDetector(1, SIDE, score_threshold=0.001).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return DigitsDetectionDataModule(image_size=SIDE, train_images=1, val_images=4).sample_images(4)


@pytest.fixture(scope="module", params=[False, True], ids=["every box", "suppressed"])
def package(request, detector, tmp_path_factory) -> InPlace:
    task = Detection(score_threshold=0.001)
    export = CoreMLExport(
        tmp_path_factory.mktemp("detector") / "net.mlpackage",
        compute_precision="float32",
        image=IMAGE,
        # Thresholds of the task take the place of these.
        nms=NonMaximumSuppression(confidence_threshold=0.9) if request.param else None,
    )
    export = task.interface(export, ["digit"])
    written = export.run(detector.model, detector.example_input_array).path
    return InPlace(load(written), detector.model, detector.example_input_array, task, IMAGE)


def test_a_package_in_place_detects_what_the_module_does(detector, package, images):
    expected = detector.detect(images)
    network, detector.model = detector.model, package
    found = detector.detect(images)
    detector.model = network
    for one, other in zip(expected, found, strict=True):
        assert len(one["scores"]) > 0
        assert torch.equal(one["labels"], other["labels"])
        torch.testing.assert_close(one["scores"], other["scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(one["boxes"], other["boxes"], atol=0.01, rtol=0)


def test_its_detections_make_a_picture(package, images):
    pixels = images * 255
    picture = package.task.picture(pixels, package.outputs([pixels]), [], threshold=0.001)
    assert picture.shape[0] == 3
    assert picture.shape[2] > picture.shape[1]


def test_other_outputs_are_no_boxes(tmp_path):
    export = Detection().interface(CoreMLExport(tmp_path / "net.mlpackage"), [])
    with pytest.raises(ConfigurationError, match=r"returns confidences.*returns \[\(1, 3\)\]"):
        export.run(nn.Linear(8, 3), torch.rand(1, 8))


def test_where_a_box_is_matters_in_its_size_and_as_far_as_anybody_believes_in_it():
    confidence = torch.tensor([[[0.81, 0.1], [0.0, 0.0]]]).expand(2, -1, -1)
    coordinates = torch.tensor([[0.5, 0.4, 0.2, 0.1], [0.5, 0.4, 0.2, 0.1]]).expand(2, -1, -1).clone()
    coordinates.requires_grad_()
    (found,) = Detection().comparable([confidence, coordinates])
    torch.testing.assert_close(found[..., :2], confidence.sqrt(), rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(found[..., 2:].sum(), coordinates)
    sure, unsure = gradient[0]
    # A tenth of the width counts as a tenth of the height, which is half of it.
    torch.testing.assert_close(sure, sure[0] * torch.tensor([1.0, 2.0, 1.0, 2.0]))
    assert sure[0] > 1000 * unsure[0] > 0
