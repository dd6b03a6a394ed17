from __future__ import annotations

import coremltools as ct
import pytest
import torch
from torch import fx, nn

from lightning_compress.coreml import ImageInput
from lightning_compress.coreml.convert import Interface, convert
from lightning_compress.errors import ConfigurationError
from lightning_compress.package.save import save_package
from lightning_compress.recipes.data.boxes import DigitsDetectionDataModule
from lightning_compress.recipes.data.labels import DigitsDataModule
from lightning_compress.recipes.resnet50 import (
    ClassifierExport,
    ExportedClassifier,
    ImageClassifier,
    resnet50,
)
from lightning_compress.runtime import load


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
    before = classifier.model.conv1.weight.clone()
    fit = trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=2, limit_test_batches=2)
    fit.fit(classifier, data)
    assert {"train/loss", "val/accuracy"} <= fit.callback_metrics.keys()
    assert not torch.equal(classifier.model.conv1.weight, before)
    assert fit.lr_scheduler_configs[0].scheduler.total_steps == 2
    (results,) = fit.test(classifier, data, verbose=False)
    assert 0 <= results["test/accuracy"] <= 1


def test_a_checkpoint_brings_the_module_back(trainer, classifier: ImageClassifier, data, tmp_path) -> None:
    fit = trainer(max_steps=1, limit_val_batches=0)
    fit.fit(classifier, data)
    fit.save_checkpoint(tmp_path / "one.ckpt")
    again = ImageClassifier.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
    assert torch.equal(again.model.fc.weight, classifier.model.fc.weight)
    assert again.hparams["image_size"] == 32


def test_the_exported_form_takes_raw_images_and_gives_the_same_probabilities(classifier, data) -> None:
    classifier.eval()
    images = data.sample_images(4)
    probabilities = ClassifierExport(classifier.model)(images)
    torch.testing.assert_close(probabilities, classifier.probabilities(images))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(4))


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_the_exported_form_measures_as_the_module_does(trainer, classifier, data, batched, named) -> None:
    class Named(nn.Module):
        def __init__(self, exported: nn.Module) -> None:
            super().__init__()
            self.exported = exported

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"probabilities": self.exported(image)}

    exported = ClassifierExport(classifier.model)
    measure = trainer(limit_test_batches=4)
    (own,) = measure.test(classifier, data, verbose=False)
    (other,) = measure.test(
        ExportedClassifier(Named(exported) if named else exported, 10, batched=batched), data, verbose=False
    )
    assert own == other


def test_a_package_of_it_measures_as_the_module_does(classifier: ImageClassifier, data, tmp_path) -> None:
    wrapped = ClassifierExport(classifier.model)
    model = convert(
        wrapped,
        torch.rand(1, 3, 32, 32),
        target=ct.target.iOS16,
        interface=Interface(
            image=ImageInput(scale=1 / 255),
            input_names=wrapped.input_names,
            output_names=wrapped.output_names,
        ),
    )
    package = load(save_package(model, tmp_path / "classifier.mlpackage"))
    measured = ExportedClassifier(package, 10, white=255)
    images = data.sample_images(8)
    torch.testing.assert_close(
        measured.probabilities(images), classifier.eval().probabilities(images), atol=1e-3, rtol=0.01
    )


def test_boxes_are_refused_as_data(trainer, classifier: ImageClassifier) -> None:
    with pytest.raises(
        ConfigurationError, match=r"ImageClassifier is for classification.*DigitsDetectionDataModule"
    ):
        trainer(fast_dev_run=True).fit(classifier, DigitsDetectionDataModule(image_size=32, train_images=4))


def test_an_unknown_optimizer_is_refused_when_the_module_is_built() -> None:
    with pytest.raises(ConfigurationError, match="adamw, sgd"):
        ImageClassifier(10, 32, optimizer="lion")
