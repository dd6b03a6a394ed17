from __future__ import annotations

import pytest
import torch
from torch import fx, nn
from torchvision.transforms import v2

from lightning_compress.errors import ConfigurationError
from lightning_compress.recipes.data.boxes import DigitsDetectionDataModule
from lightning_compress.recipes.data.labels import DigitsDataModule
from lightning_compress.recipes.normalization import IMAGENET_MEAN, IMAGENET_STD
from lightning_compress.recipes.resnet50 import ImageClassifier, resnet50


@pytest.fixture(scope="module")
def data() -> DigitsDataModule:
    return DigitsDataModule(image_size=32, batch_size=4)


@pytest.fixture
def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(10, 32)


def test_it_is_the_true_resnet50() -> None:
    network = resnet50(1000)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert len(convolutions) == 53
    assert convolutions[0].weight.numel() == 9_408
    assert [module.weight.numel() for module in linear] == [2_048_000]
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_557_032


def test_fx_traces_the_network(classifier: ImageClassifier) -> None:
    traced = fx.symbolic_trace(classifier.model.eval())
    torch.testing.assert_close(
        traced(classifier.example_input_array), classifier(classifier.example_input_array)
    )


def test_it_trains_validates_and_tests(trainer, classifier: ImageClassifier, data: DigitsDataModule) -> None:
    before = classifier.model.network.conv1.weight.clone()
    fit = trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=2, limit_test_batches=2)
    fit.fit(classifier, data)
    assert {"train/loss", "val/accuracy"} <= fit.callback_metrics.keys()
    assert not torch.equal(classifier.model.network.conv1.weight, before)
    assert fit.lr_scheduler_configs[0].scheduler.total_steps == 2
    (results,) = fit.test(classifier, data, verbose=False)
    assert 0 <= results["test/accuracy"] <= 1


def test_a_checkpoint_brings_the_module_back(trainer, classifier: ImageClassifier, data, tmp_path) -> None:
    fit = trainer(max_steps=1, limit_val_batches=0)
    fit.fit(classifier, data)
    fit.save_checkpoint(tmp_path / "one.ckpt")
    again = ImageClassifier.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
    assert torch.equal(again.model.network.fc.weight, classifier.model.network.fc.weight)
    assert again.hparams["image_size"] == 32


def test_its_network_takes_images_as_they_are(classifier: ImageClassifier, data: DigitsDataModule) -> None:
    classifier.eval()
    images = data.sample_images(4)
    normalized = v2.functional.normalize(images, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(classifier(images), classifier.model.network(normalized), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(classifier.probabilities(images), classifier(images).softmax(dim=1))


def test_boxes_are_refused_as_data(trainer, classifier: ImageClassifier) -> None:
    with pytest.raises(
        ConfigurationError, match=r"ImageClassifier is for classification.*DigitsDetectionDataModule"
    ):
        trainer(fast_dev_run=True).fit(classifier, DigitsDetectionDataModule(image_size=32, train_images=4))


def test_an_unknown_optimizer_is_refused_when_the_module_is_built() -> None:
    with pytest.raises(ConfigurationError, match="adamw, sgd"):
        ImageClassifier(10, 32, optimizer="lion")
