from __future__ import annotations

import pytest
from torch import nn

from lightning_compress.errors import ConfigurationError
from lightning_compress.recipes import resnet50, ssd_resnet18
from lightning_compress.recipes.data import boxes
from lightning_compress.recipes.ranges import require_between


def test_a_bound_is_valid_unless_it_is_left_out():
    require_between("a", 0, 0, 1)
    require_between("a", 1, 0, 1)
    with pytest.raises(
        ConfigurationError, match=r"a=0 is out of range; valid are numbers above 0 and below 1\."
    ):
        require_between("a", 0, 0, 1, above=True, below=True)
    with pytest.raises(ConfigurationError, match=r"a=-1 is out of range; valid are numbers from 0\."):
        require_between("a", -1, 0)


@pytest.mark.parametrize("value", ["fast", None, True, float("nan")])
def test_what_is_no_number_is_out_of_range(value):
    with pytest.raises(ConfigurationError, match="out of range"):
        require_between("a", value, 0, 1)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate", 0),
        ("weight_decay", -1),
        ("momentum", 1),
        ("warmup_fraction", 1),
        ("iou_threshold", 5),
        ("score_threshold", -0.1),
        ("nms_threshold", 1.1),
        ("negatives_per_positive", -1),
    ],
)
def test_settings_of_the_detector_are_refused_when_it_is_made(setting, value):
    with pytest.raises(ConfigurationError, match=f"{setting}={value} is out of range"):
        ssd_resnet18.ObjectDetector(num_classes=1, image_size=64, **{setting: value})


def test_settings_of_the_classifier_are_refused_when_it_is_made():
    with pytest.raises(ConfigurationError, match="label_smoothing=2 is out of range"):
        resnet50.ImageClassifier(num_classes=2, image_size=32, label_smoothing=2)
    assert isinstance(resnet50.ImageClassifier(num_classes=2, image_size=32).model, nn.Module)


@pytest.mark.parametrize("setting", [{"brightness": -1}, {"seed": -1}])
def test_settings_of_the_data_are_refused_before_training(setting):
    with pytest.raises(ConfigurationError, match="out of range"):
        boxes.DigitsDetectionDataModule(image_size=64, train_images=1, val_images=1, **setting).setup("fit")
