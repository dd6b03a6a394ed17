from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models import mobilenet_v3_large
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large, lraspp_mobilenet_v3_large

from lightning_compress.errors import ConfigurationError
from lightning_compress.recipes.data.labels import DigitsDataModule
from lightning_compress.recipes.data.masks import DigitsMasksDataModule
from lightning_compress.recipes.segmentation import ImageSegmenter, Segmenter

ARCHITECTURES = {"deeplabv3": deeplabv3_mobilenet_v3_large, "lraspp": lraspp_mobilenet_v3_large}


@pytest.fixture(scope="module")
def data() -> DigitsMasksDataModule:
    return DigitsMasksDataModule(image_size=32, batch_size=4, train_images=8, val_images=6)


@pytest.fixture
def segmenter() -> ImageSegmenter:
    torch.manual_seed(0)
    return ImageSegmenter(11, 32)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_torchvisions_network_behind_its_normalization(architecture: str) -> None:
    torch.manual_seed(0)
    ours = Segmenter(5, architecture=architecture).eval()
    theirs = ARCHITECTURES[architecture](
        weights=None, weights_backbone=None, num_classes=5, aux_loss=architecture == "deeplabv3"
    ).eval()
    theirs.load_state_dict(ours.network.state_dict())
    images = torch.rand(2, 3, 40, 56)
    logits = ours(images)
    assert logits.shape == (2, 5, 40, 56)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalized = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(logits, theirs(normalized)["out"], atol=1e-4, rtol=1e-3)


def test_depthwise_convolutions_start_with_outputs_as_large_as_their_inputs() -> None:
    torch.manual_seed(0)
    depthwise = [
        module for module in Segmenter(5).modules() if isinstance(module, nn.Conv2d) and module.groups > 1
    ]
    assert len(depthwise) == 15
    for module in depthwise:
        inputs = torch.randn(1, module.in_channels, 40, 40)
        assert 0.7 < module(inputs)[..., 4:-4, 4:-4].std() / 2**0.5 < 1.3


def test_running_statistics_follow_weights_that_compression_changes() -> None:
    momenta = {module.momentum for module in Segmenter(5).modules() if isinstance(module, nn.BatchNorm2d)}
    assert momenta == {0.1}


def test_training_sees_the_auxiliary_head_where_there_is_one() -> None:
    images = torch.rand(2, 3, 32, 32)
    logits, auxiliary = Segmenter(5, architecture="deeplabv3").training_logits(images)
    assert auxiliary is not None
    assert logits.shape == auxiliary.shape == (2, 5, 32, 32)
    assert Segmenter(5).training_logits(images)[1] is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_trains_validates_and_tests(trainer, data, architecture: str) -> None:
    torch.manual_seed(0)
    segmenter = ImageSegmenter(11, 32, architecture=architecture)
    before = {name: value.clone() for name, value in segmenter.model.named_parameters()}
    fit = trainer(max_epochs=1, limit_val_batches=1)
    fit.fit(segmenter, data)
    assert {"train/loss", "val/miou"} <= fit.callback_metrics.keys()
    # The auxiliary head learns, too.
    assert all(not torch.equal(value, before[name]) for name, value in segmenter.model.named_parameters())
    assert fit.lr_scheduler_configs[0].scheduler.total_steps == 2
    (results,) = fit.test(segmenter, data, verbose=False)
    assert 0 <= results["test/miou"] <= 1


class Answers(nn.Module):
    """Gives logits that were written down before, whatever it is shown."""

    def __init__(self, *classes: Tensor) -> None:
        super().__init__()
        self.answers = [nn.functional.one_hot(each, 11).movedim(-1, 1).float() for each in classes]

    def forward(self, images: Tensor) -> Tensor:
        return self.answers.pop(0)


def test_the_metric_counts_over_all_images_and_leaves_out_what_is_ignored(trainer) -> None:
    first, second = torch.zeros(1, 4, 4, dtype=torch.int64), torch.zeros(1, 4, 4, dtype=torch.int64)
    first[0, 0], second[0, :2] = 3, 3
    wrong = second.clone()
    wrong[0, 3] = 7
    ignored = second.clone()
    ignored[0, 3] = 255
    wrong[0, 2] = 3
    segmenter = ImageSegmenter(11, 32)
    segmenter.model = Answers(first, wrong)
    batches = [(torch.rand(1, 3, 4, 4), masks) for masks in (first, ignored)]
    (results,) = trainer().validate(segmenter, DataLoader(batches, batch_size=None), verbose=False)
    # Of class 3, 4 + 8 pixels are right and 4 too many; of the background, 12 are right and 4 missing.
    assert results["val/miou"] == pytest.approx((12 / 16 + 12 / 16) / 2)


def test_validation_asks_the_network_alone(trainer, data, segmenter: ImageSegmenter) -> None:
    """What stands in the network's place, such as a package, is measured without it."""

    class Blank(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = torch.zeros(len(images), 11, *images.shape[2:])
            logits[:, 0] = 1
            return logits

    segmenter.model = Blank()
    (results,) = trainer().validate(segmenter, data, verbose=False)
    # The background alone is right, as far as it goes, and every class that is there counts.
    truth = torch.cat([masks for _, masks in data.val_dataloader()])
    share = (truth == 0).float().mean().item()
    assert results["val/miou"] == pytest.approx(share / len(truth.unique()), rel=1e-4)


def test_a_batch_in_which_all_is_ignored_teaches_nothing(segmenter: ImageSegmenter, monkeypatch) -> None:
    monkeypatch.setattr(segmenter, "log", lambda *_, **__: None)
    loss = segmenter.training_step((torch.rand(2, 3, 32, 32), torch.full((2, 32, 32), 255)), 0)
    assert loss.item() == 0


def test_a_checkpoint_brings_the_module_back_and_its_weights_another(trainer, segmenter, tmp_path) -> None:
    fit = trainer(max_steps=1)
    fit.strategy.connect(segmenter)
    fit.save_checkpoint(tmp_path / "one.ckpt")
    again = ImageSegmenter.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
    other = ImageSegmenter(11, 32, weights=str(tmp_path / "one.ckpt"))
    for module in (again, other):
        assert all(
            torch.equal(value, segmenter.model.state_dict()[name])
            for name, value in module.model.state_dict().items()
        )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_for_other_classes_keep_all_but_the_last_layers(architecture, tmp_path, caplog) -> None:
    source = ARCHITECTURES[architecture](weights=None, weights_backbone=None, num_classes=21)
    if architecture == "deeplabv3":
        source = Segmenter(21, architecture="deeplabv3").network
    torch.save(source.state_dict(), tmp_path / "voc.pt")
    with caplog.at_level(logging.INFO):
        network = Segmenter(5, architecture=architecture, weights=str(tmp_path / "voc.pt")).network
    changed = {
        name for name, value in network.state_dict().items() if value.shape != source.state_dict()[name].shape
    }
    last = {"deeplabv3": ("classifier.4.", "aux_classifier.4."), "lraspp": ("classifier.",)}[architecture]
    assert len(changed) == 4
    assert all(name.startswith(last) for name in changed)
    assert "starts anew" in caplog.text


def test_the_backbone_takes_a_classifiers_weights(tmp_path) -> None:
    classifier = mobilenet_v3_large(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "mobilenet.pt")
    network = Segmenter(5, backbone_weights=str(tmp_path / "mobilenet.pt")).network
    state = classifier.state_dict()
    assert all(
        torch.equal(value, state[f"features.{name}"]) for name, value in network.backbone.state_dict().items()
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"architecture": "deeplab"},
            r"architecture='deeplab' is unknown.*deeplabv3.*Valid: deeplabv3, lraspp",
        ),
        ({"weights": "COCO"}, r"weights='COCO' is neither a name of torchvision's LRASPP_Mobile"),
        (
            {"backbone_weights": "IMAGENET"},
            r"'IMAGENET' is neither a name of torchvision's MobileNet_V3_Large_W",
        ),
        ({"weights": "a.pt", "backbone_weights": "b.pt"}, r"backbone_weights='b\.pt' must be null beside it"),
        ({"optimizer": "lion"}, "adamw, sgd"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ImageSegmenter(11, 32, **settings)


def test_labels_of_whole_images_are_refused_as_data(trainer, segmenter: ImageSegmenter) -> None:
    with pytest.raises(ConfigurationError, match=r"ImageSegmenter is for segmentation.*DigitsDataModule"):
        trainer(fast_dev_run=True).fit(segmenter, DigitsDataModule(image_size=32))


def test_batches_of_one_image_are_refused_where_they_cannot_be_normalized(trainer) -> None:
    data = DigitsMasksDataModule(image_size=32, batch_size=1, train_images=2, val_images=1)
    with pytest.raises(ConfigurationError, match=r"data\.batch_size=1.*lraspp"):
        trainer(fast_dev_run=True).fit(ImageSegmenter(11, 32, architecture="deeplabv3"), data)
    trainer(fast_dev_run=True).fit(ImageSegmenter(11, 32), data)
