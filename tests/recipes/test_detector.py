from __future__ import annotations

import coremltools as ct
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import box_convert

from lightning_compress.coreml import CoreMLExport, ImageInput, NonMaximumSuppression
from lightning_compress.coreml.convert import Interface, convert
from lightning_compress.errors import ConfigurationError
from lightning_compress.package.save import save_package
from lightning_compress.recipes.data.boxes import CocoDataModule, DigitsDetectionDataModule
from lightning_compress.recipes.data.labels import DigitsDataModule
from lightning_compress.recipes.ssd_resnet18 import (
    DetectorExport,
    ExportedDetector,
    ObjectDetector,
    draw_detections,
    save_sample_detections,
)
from lightning_compress.recipes.ssd_resnet18.export import cut_at_edges
from lightning_compress.runtime import load

SIDE = 64


@pytest.fixture(scope="module")
def data() -> DigitsDetectionDataModule:
    return DigitsDetectionDataModule(image_size=SIDE, batch_size=4, train_images=16, val_images=8)


@pytest.fixture
def detector() -> ObjectDetector:
    torch.manual_seed(0)
    return ObjectDetector(1, SIDE, score_threshold=0.001)


class PerfectDetector(nn.Module):
    """Knows the validation images, and answers in exported form: objects first, then boxes of no score."""

    def __init__(self, data: DigitsDetectionDataModule, white: float, *, named: bool) -> None:
        super().__init__()
        self.known = [
            (image * white, target["boxes"] / SIDE) for image, target in data.val_dataloader().dataset
        ]
        self.named = named

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor] | dict[str, Tensor]:
        scores, boxes = torch.zeros(len(images), 5, 1), torch.full((len(images), 5, 4), 0.5)
        for row, image in enumerate(images):
            (answer,) = (boxes for known, boxes in self.known if torch.allclose(known, image, atol=1e-3))
            scores[row, : len(answer)] = 0.9
            boxes[row, : len(answer)] = box_convert(answer, "xyxy", "cxcywh")
        scores, boxes = scores.squeeze(0), boxes.squeeze(0)
        return {"coordinates": boxes, "confidence": scores} if self.named else (scores, boxes)


def test_it_trains_validates_and_tests(trainer, detector: ObjectDetector, data) -> None:
    before = detector.model.head.regression_head.module_list[0].weight.clone()
    fit = trainer(max_epochs=1, limit_train_batches=2, gradient_clip_val=10.0)
    fit.fit(detector, data)
    assert {"train/loss", "train/classification_loss", "val/map", "val/map_50"} <= fit.callback_metrics.keys()
    assert torch.isfinite(fit.callback_metrics["train/loss"])
    assert not torch.equal(detector.model.head.regression_head.module_list[0].weight, before)
    (results,) = fit.test(detector, data, verbose=False)
    assert 0 <= results["test/map"] <= results["test/map_50"] <= 1


def test_it_learns_a_handful_of_scenes(trainer) -> None:
    torch.manual_seed(0)
    few = DigitsDetectionDataModule(image_size=SIDE, batch_size=4, train_images=4, brightness=0.0)
    detector = ObjectDetector(1, SIDE)
    fit = trainer(max_epochs=25, limit_val_batches=0, gradient_clip_val=10.0)
    detector.train()
    images, targets = next(iter(few.train_dataloader()))
    first = sum(detector.loss(*detector(detector.normalize(images)), targets).values())
    fit.fit(detector, few)
    assert fit.callback_metrics["train/loss"] < first / 3


def test_a_checkpoint_brings_the_module_back(trainer, detector: ObjectDetector, data, tmp_path) -> None:
    fit = trainer(max_steps=1, limit_val_batches=0)
    fit.fit(detector, data)
    fit.save_checkpoint(tmp_path / "one.ckpt")
    again = ObjectDetector.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
    assert all(torch.equal(value, detector.state_dict()[name]) for name, value in again.state_dict().items())
    assert {name.split(".")[0] for name in again.state_dict()} == {"model"}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(("white", "batched"), [(1.0, True), (255.0, False)])
def test_a_perfect_detector_has_a_precision_of_one(
    trainer, data, named: bool, white: float, batched: bool
) -> None:
    perfect = PerfectDetector(data, white, named=named)
    (results,) = trainer().test(ExportedDetector(perfect, white=white, batched=batched), data, verbose=False)
    assert results["test/map"] == pytest.approx(1)
    assert results["test/map_50"] == pytest.approx(1)


def test_the_exported_form_detects_what_the_module_does(detector: ObjectDetector, data) -> None:
    detector.eval()
    images = data.sample_images(4)
    exported = ExportedDetector(DetectorExport(detector.model, SIDE).eval(), score_threshold=0.001)
    for one, other in zip(detector.detect(images), exported.detect(images), strict=True):
        assert len(one["scores"]) > 0
        assert torch.equal(one["labels"], other["labels"])
        torch.testing.assert_close(one["scores"], other["scores"])
        torch.testing.assert_close(one["boxes"], other["boxes"], atol=1e-3, rtol=1e-4)


def test_outputs_of_other_names_are_refused() -> None:
    class Other(nn.Module):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"scores": image, "boxes": image}

    with pytest.raises(ConfigurationError, match=r"\['boxes', 'scores'\].*'confidence' and 'coordinates'"):
        ExportedDetector(Other()).detect(torch.rand(1, 3, SIDE, SIDE))


@pytest.mark.parametrize("batched", [False, True])
def test_a_package_of_it_detects_what_the_module_does(
    detector: ObjectDetector, data, batched, tmp_path
) -> None:
    wrapped = DetectorExport(detector.model, SIDE)
    model = convert(
        wrapped,
        torch.rand(1, 3, SIDE, SIDE),
        target=ct.target.iOS16,
        interface=Interface(
            image=ImageInput(scale=1 / 255),
            input_names=wrapped.input_names,
            output_names=wrapped.output_names,
        ),
    )
    package = load(save_package(model, tmp_path / "detector.mlpackage"))
    images = data.sample_images(2)
    scores, boxes = ExportedDetector(package, white=255, batched=batched).scores_and_boxes(images)
    own_scores, own_boxes = detector.eval().scores_and_boxes(images)
    own_boxes = cut_at_edges(own_boxes)
    torch.testing.assert_close(scores, own_scores, atol=2e-3, rtol=0)
    # Within a tenth of a pixel.
    torch.testing.assert_close(boxes * SIDE, own_boxes * SIDE, atol=0.1, rtol=1e-3)


def test_boxes_are_cut_at_the_edges_of_the_image() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.9, 0.1, 0.4, 0.4], [2.0, 0.5, 0.5, 0.5]])
    expected = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.85, 0.15, 0.3, 0.3], [1.0, 0.5, 0.0, 0.5]])
    torch.testing.assert_close(cut_at_edges(boxes), expected)


@pytest.mark.parametrize("batched", [False, True])
def test_a_package_with_suppression_detects_what_the_module_does(
    detector: ObjectDetector, data, batched, tmp_path
) -> None:
    export = CoreMLExport(
        tmp_path / "detector.mlpackage",
        compute_precision="float32",
        image=ImageInput(scale=1 / 255),
        class_labels=["digit"],
        # Thresholds of the evaluation take the place of these.
        nms=NonMaximumSuppression(confidence_threshold=0.9),
        wrapper=lambda network: DetectorExport(network, SIDE),
    )
    package = load(export.run(detector.model, detector.example_input_array).path)
    images = data.sample_images(2)
    evaluation = ExportedDetector(package, white=255, score_threshold=0.001, batched=batched)
    for one, other in zip(detector.eval().detect(images), evaluation.detect(images), strict=True):
        assert len(one["scores"]) > 0
        assert torch.equal(one["labels"], other["labels"])
        torch.testing.assert_close(one["scores"], other["scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(one["boxes"], other["boxes"], atol=0.01, rtol=0)


def test_class_labels_are_refused_as_data(trainer, detector: ObjectDetector) -> None:
    with pytest.raises(
        ConfigurationError, match=r"ObjectDetector is for detection.*DigitsDataModule.*classification"
    ):
        trainer(fast_dev_run=True).fit(detector, DigitsDataModule(image_size=SIDE))


def test_photographs_in_coco_format_train(trainer, photographs) -> None:
    torch.manual_seed(0)
    data = CocoDataModule(str(photographs), image_size=96, batch_size=4)
    fit = trainer(fast_dev_run=True, gradient_clip_val=10.0)
    fit.fit(ObjectDetector(1, 96), data)
    assert torch.isfinite(fit.callback_metrics["train/loss"])
    assert 0 <= fit.callback_metrics["val/map"] <= 1


def test_pictures_show_detections_above_the_threshold(data) -> None:
    images = torch.full((2, 3, SIDE, SIDE), 0.5)
    detection = {
        "boxes": torch.tensor([[8.0, 8, 40, 40], [20.0, 30, 50, 60]]),
        "scores": torch.tensor([0.9, 0.2]),
        "labels": torch.tensor([1, 1]),
    }
    nothing = {
        "boxes": torch.zeros(0, 4),
        "scores": torch.zeros(0),
        "labels": torch.zeros(0, dtype=torch.int64),
    }
    shown = draw_detections(images, [detection, nothing], ["digit"], columns=2)
    assert shown.shape[0] == 3
    both = draw_detections(images, [detection, nothing], ["digit"], columns=2, threshold=0.1)
    first, second = shown[:, :, : shown.shape[2] // 2], shown[:, 8:-8, shown.shape[2] // 2 + 8 : -8]
    assert (first != 0.5).any()
    assert (second == 0.5).all()
    assert not torch.equal(shown, both)


def test_pictures_show_the_best_boxes_alone(data) -> None:
    images = torch.full((1, 3, SIDE, SIDE), 0.5)
    left, top = torch.meshgrid(torch.arange(0, SIDE - 8, 4.0), torch.arange(0, SIDE - 8, 4.0), indexing="ij")
    corners = torch.stack([left.flatten(), top.flatten()], dim=1)
    scores = torch.linspace(0.3, 0.99, len(corners))
    many = {
        "boxes": torch.cat([corners, corners + 8], dim=1),
        "scores": scores,
        "labels": torch.ones(len(corners), dtype=torch.int64),
    }
    best = {key: value[-20:] for key, value in many.items()}
    assert len(corners) > 20
    shown = draw_detections(images, [many], ["digit"])
    assert torch.equal(shown, draw_detections(images, [best], ["digit"]))
    assert not torch.equal(shown, draw_detections(images, [many], ["digit"], most_boxes=100))


def test_a_picture_of_samples_is_saved(detector: ObjectDetector, data, tmp_path) -> None:
    detector.train()
    path = save_sample_detections(detector, data, tmp_path / "pictures" / "samples.png", count=4, columns=2)
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        assert picture.width == picture.height
    assert detector.training
