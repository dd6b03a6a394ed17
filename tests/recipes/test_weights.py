from __future__ import annotations

import logging

import pytest
import torch
from torchvision.models import ResNet18_Weights, ResNet50_Weights, resnet18

from lightning_compress.errors import ConfigurationError
from lightning_compress.recipes.resnet50 import ImageClassifier
from lightning_compress.recipes.ssd_resnet18 import SSDResNet18
from lightning_compress.recipes.ssd_resnet18.network import load_pretrained
from lightning_compress.recipes.weights import load_weights, read_weights


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """No network: a proxy at a closed port, and nothing downloaded before."""
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))


def test_an_unknown_name_lists_the_valid_ones() -> None:
    with pytest.raises(
        ConfigurationError, match=r"IMAGENET1K_V3.*did you mean.*IMAGENET1K_V1, IMAGENET1K_V2.*null"
    ):
        read_weights("IMAGENET1K_V3", ResNet50_Weights)


def test_a_file_that_does_not_exist_is_named(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing\.pt"):
        read_weights(str(tmp_path / "nothing.pt"), ResNet50_Weights)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1"])
def test_without_a_network_the_error_says_what_to_set(name: str, capfd) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"{name}.*download\.pytorch\.org.*local file.*checkpoints.*null"
    ):
        read_weights(name, ResNet18_Weights)


def test_a_state_dict_comes_back_as_it_was_saved(tmp_path) -> None:
    state = resnet18().state_dict()
    torch.save(state, tmp_path / "resnet18.pt")
    network = SSDResNet18(1)
    load_pretrained(network, str(tmp_path / "resnet18.pt"))
    assert torch.equal(network.backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_a_whole_detector_loads_from_a_lightning_checkpoint(tmp_path) -> None:
    source = SSDResNet18(1)
    state = {f"model.{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": {**state, "other.weight": torch.zeros(1)}, "epoch": 3}, tmp_path / "last.ckpt")
    network = SSDResNet18(1)
    load_pretrained(network, str(tmp_path / "last.ckpt"))
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in network.state_dict().items())


def test_the_last_layer_starts_anew_for_another_number_of_classes(tmp_path, caplog) -> None:
    torch.save(ImageClassifier(12, 64).model.state_dict(), tmp_path / "twelve.pt")
    with caplog.at_level(logging.INFO):
        classifier = ImageClassifier(10, 64, weights=str(tmp_path / "twelve.pt"))
    saved = torch.load(tmp_path / "twelve.pt", weights_only=True)
    assert torch.equal(classifier.model.network.conv1.weight, saved["network.conv1.weight"])
    assert classifier.model.network.fc.out_features == 10
    assert "fc starts anew" in caplog.text


def test_what_does_not_fit_is_listed() -> None:
    network = resnet18()
    state = network.state_dict()
    state["conv1.weight"] = torch.zeros(3)
    del state["bn1.bias"]
    state["extra"] = torch.zeros(1)
    with pytest.raises(
        ConfigurationError,
        match=r"1 missing: bn1\.bias; 1 unexpected: extra; .*conv1\.weight \(3,\) instead of \(64, 3",
    ):
        load_weights(network, state, source="own.pt")


@pytest.mark.parametrize("content", [b"", b"no pickle"])
def test_a_file_that_holds_no_weights_is_refused(content: bytes, tmp_path) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"bad\.pt.*cannot be read"):
        read_weights(str(tmp_path / "bad.pt"), ResNet50_Weights)


def test_a_file_of_something_else_is_refused(tmp_path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ConfigurationError, match=r"list\.pt.*holds no state dict"):
        read_weights(str(tmp_path / "list.pt"), ResNet50_Weights)
