from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from lightning_compress.errors import ConfigurationError
from lightning_compress.recipes.data.boxes import CocoDataModule, DigitsDetectionDataModule
from lightning_compress.recipes.data.labels import DigitsDataModule
from lightning_compress.recipes.ssd_resnet18 import ObjectDetector
from lightning_compress.recipes.ssd_resnet18.model import cut_at_edges

SIDE = 64


@pytest.fixture(scope="module")
def data() -> DigitsDetectionDataModule:
    return DigitsDetectionDataModule(image_size=SIDE, batch_size=4, train_images=16, val_images=8)


@pytest.fixture
def detector() -> ObjectDetector:
    torch.manual_seed(0)
    return ObjectDetector(1, SIDE, score_threshold=0.001)


class PerfectDetector(nn.Module):
    """Knows the validation images: objects first, then boxes of no score."""

    def __init__(self, data: DigitsDetectionDataModule) -> None:
        super().__init__()
        self.known = [(image, target["boxes"] / SIDE) for image, target in data.val_dataloader().dataset]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores, boxes = torch.zeros(len(images), 5, 1), torch.full((len(images), 5, 4), 0.5)
        for row, image in enumerate(images):
            (answer,) = (boxes for known, boxes in self.known if torch.allclose(known, image, atol=1e-3))
            scores[row, : len(answer)] = 0.9
            boxes[row, : len(answer)] = box_convert(answer, "xyxy", "cxcywh")
        return scores, boxes


def test_it_trains_validates_and_tests(trainer, detector: ObjectDetector, data) -> None:
    before = detector.model.network.head.regression_head.module_list[0].weight.clone()
    fit = trainer(max_epochs=1, limit_train_batches=2, gradient_clip_val=10.0)
    fit.fit(detector, data)
    assert {"train/loss", "train/classification_loss", "val/map", "val/map_50"} <= fit.callback_metrics.keys()
    assert torch.isfinite(fit.callback_metrics["train/loss"])
    assert not torch.equal(detector.model.network.head.regression_head.module_list[0].weight, before)
    (results,) = fit.test(detector, data, verbose=False)
    assert 0 <= results["test/map"] <= results["test/map_50"] <= 1


def test_it_learns_a_handful_of_scenes(trainer) -> None:
    torch.manual_seed(0)
    few = DigitsDetectionDataModule(image_size=SIDE, batch_size=4, train_images=4, brightness=0.0)
    detector = ObjectDetector(1, SIDE)
    fit = trainer(max_epochs=25, limit_val_batches=0, gradient_clip_val=10.0)
    detector.train()
    images, targets = next(iter(few.train_dataloader()))
    first = sum(detector.loss(*detector.model.predictions(images), targets).values())
    fit.fit(detector, few)
    assert fit.callback_metrics["train/loss"] < first / 3


def test_a_checkpoint_brings_the_module_back(trainer, detector: ObjectDetector, data, tmp_path) -> None:
    fit = trainer(max_steps=1, limit_val_batches=0)
    fit.fit(detector, data)
    fit.save_checkpoint(tmp_path / "one.ckpt")
    again = ObjectDetector.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
    assert all(torch.equal(value, detector.state_dict()[name]) for name, value in again.state_dict().items())
    assert {name.split(".")[0] for name in again.state_dict()} == {"model"}


def test_a_perfect_detector_has_a_precision_of_one(trainer, detector: ObjectDetector, data) -> None:
    detector.model = PerfectDetector(data)
    (results,) = trainer().test(detector, data, verbose=False)
    assert results["test/map"] == pytest.approx(1)
    assert results["test/map_50"] == pytest.approx(1)


def test_boxes_are_cut_at_the_edges_of_the_image() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.9, 0.1, 0.4, 0.4], [2.0, 0.5, 0.5, 0.5]])
    expected = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.85, 0.15, 0.3, 0.3], [1.0, 0.5, 0.0, 0.5]])
    torch.testing.assert_close(cut_at_edges(boxes), expected)


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
