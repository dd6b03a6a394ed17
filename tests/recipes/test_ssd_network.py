from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_convert

from lightning_compress.errors import ConfigurationError
from lightning_compress.recipes.normalization import IMAGENET_MEAN, IMAGENET_STD, Normalize
from lightning_compress.recipes.ssd_resnet18 import BoxDecoder, Detector, SSDResNet18, default_boxes
from lightning_compress.recipes.ssd_resnet18.default_boxes import (
    ASPECT_RATIOS,
    SCALES,
    default_box_grids,
    feature_map_sizes,
)
from lightning_compress.recipes.ssd_resnet18.loss import MultiBoxLoss
from lightning_compress.tasks.detections import DetectionThresholds, select_detections

SIDE = 96


class Maps(nn.Module):
    """The network's feature maps, as torchvision's SSD wants them."""

    def __init__(self, network: SSDResNet18) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        maps = list(self.network.backbone(images))
        for block in (self.network.extra1, self.network.extra2, self.network.extra3):
            maps.append(block(maps[-1]))
        return OrderedDict((str(index), feature_map) for index, feature_map in enumerate(maps))


@pytest.fixture
def network() -> SSDResNet18:
    torch.manual_seed(0)
    return SSDResNet18(2)


@pytest.fixture
def torchvision_ssd(network: SSDResNet18) -> SSD:
    """torchvision's own detector around the same layers."""
    generator = DefaultBoxGenerator([list(ratios) for ratios in ASPECT_RATIOS], scales=list(SCALES))
    return SSD(
        Maps(network),
        generator,
        (SIDE, SIDE),
        num_classes=3,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
        head=network.head,
    )


def images_and_targets() -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    targets = [
        {"boxes": torch.tensor([[5.0, 10, 40, 60], [50, 50, 90, 95]]), "labels": torch.tensor([1, 2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
        {"boxes": torch.tensor([[0.0, 0, 95, 95]]), "labels": torch.tensor([2])},
    ]
    return images, targets


def test_it_has_the_size_of_the_published_package() -> None:
    parameters = sum(parameter.numel() for parameter in SSDResNet18(1).parameters())
    assert parameters == 12_125_428
    assert abs(parameters * 2 / 23.6e6 - 1) < 0.05


def test_fx_traces_the_network(network: SSDResNet18) -> None:
    network.eval()
    traced = fx.symbolic_trace(network)
    images, _ = images_and_targets()
    for own, other in zip(network(images), traced(images), strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("side", [64, 97, 160, 300])
def test_there_is_a_default_box_for_each_output(network: SSDResNet18, side: int) -> None:
    with torch.no_grad():
        logits, regression = network.eval()(torch.zeros(1, 3, side, side))
        maps = Maps(network)(torch.zeros(1, 3, side, side))
    assert [feature_map.shape[-1] for feature_map in maps.values()] == feature_map_sizes(side)
    count = len(default_boxes(side))
    assert logits.shape == (1, count, 3)
    assert regression.shape == (1, count, 4)


def test_default_boxes_are_torchvisions() -> None:
    boxes = box_convert(default_boxes(SIDE), "cxcywh", "xyxy") * SIDE
    generator = DefaultBoxGenerator([list(ratios) for ratios in ASPECT_RATIOS], scales=list(SCALES))
    maps = [torch.zeros(1, 1, side, side) for side in feature_map_sizes(SIDE)]
    (expected,) = generator(ImageList(torch.zeros(1, 3, SIDE, SIDE), [(SIDE, SIDE)]), maps)
    torch.testing.assert_close(boxes, expected, atol=1e-4, rtol=0)


def test_another_number_of_scales_or_aspect_ratios_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"scales=\[0\.1, 0\.2\] has 2 entries; 7"):
        default_boxes(SIDE, scales=[0.1, 0.2])
    with pytest.raises(ConfigurationError, match=r"aspect_ratios=.* has 1 entry; .*6 feature maps"):
        SSDResNet18(1, aspect_ratios=[[2]])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.sampled_from([0.1, 1.0, 10.0, 100.0]))
def test_boxes_are_decoded_as_torchvision_decodes_them(seed: int, spread: float) -> None:
    boxes = default_boxes(SIDE)
    regression = torch.randn(2, len(boxes), 4, generator=torch.Generator().manual_seed(seed)) * spread
    decoded = box_convert(BoxDecoder(default_box_grids(SIDE))(regression), "cxcywh", "xyxy")
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    corners = box_convert(boxes, "cxcywh", "xyxy")
    expected = torch.stack([coder.decode_single(one, corners) for one in regression])
    torch.testing.assert_close(decoded, expected, atol=1e-4, rtol=1e-4)


def test_the_loss_is_that_of_torchvisions_ssd(network: SSDResNet18, torchvision_ssd: SSD) -> None:
    images, targets = images_and_targets()
    expected = torchvision_ssd.train()(list(images), targets)
    loss = MultiBoxLoss(default_boxes(SIDE), SIDE)
    losses = loss(*network(Normalize()(images)), targets)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, atol=1e-4, rtol=1e-4)


def test_half_precision_outputs_have_a_finite_loss(network: SSDResNet18) -> None:
    images, targets = images_and_targets()
    logits, regression = network(images)
    losses = MultiBoxLoss(default_boxes(SIDE), SIDE)(logits.bfloat16(), regression.bfloat16(), targets)
    assert all(torch.isfinite(value) and value.dtype == torch.float32 for value in losses.values())


def test_detections_are_those_of_torchvisions_ssd(network: SSDResNet18, torchvision_ssd: SSD) -> None:
    network.train()
    images, _ = images_and_targets()
    network(Normalize()(images))  # statistics of batch normalization
    torchvision_ssd.eval()
    with torch.no_grad():
        expected = torchvision_ssd(list(images))
        scores, boxes = Detector(network, SIDE)(images)
    for image_scores, image_boxes, wanted in zip(scores, boxes, expected, strict=True):
        found = select_detections(image_scores, image_boxes, (SIDE, SIDE))
        torch.testing.assert_close(found["scores"], wanted["scores"], atol=1e-5, rtol=1e-4)
        assert torch.equal(found["labels"], wanted["labels"])
        torch.testing.assert_close(found["boxes"], wanted["boxes"], atol=1e-2, rtol=1e-4)


def test_detections_come_in_order_and_within_the_thresholds() -> None:
    scores = torch.tensor([[0.9], [0.8], [0.05], [0.7]])
    boxes = torch.tensor(
        [[0.5, 0.5, 0.4, 0.4], [0.5, 0.51, 0.4, 0.4], [0.2, 0.2, 0.1, 0.1], [0.9, 0.9, 0.4, 0.4]]
    )
    found = select_detections(scores, boxes, (100, 200), DetectionThresholds(score=0.1))
    assert found["scores"].tolist() == pytest.approx([0.9, 0.7])
    assert found["labels"].tolist() == [1, 1]
    # The last one reaches out of the image and is cut.
    torch.testing.assert_close(found["boxes"], torch.tensor([[60.0, 30, 140, 70], [140, 70, 200, 100]]))


def test_no_detection_is_no_error() -> None:
    found = select_detections(torch.zeros(5, 2), torch.rand(5, 4), (32, 32))
    assert found["boxes"].shape == (0, 4)
    assert found["scores"].shape == found["labels"].shape == (0,)
