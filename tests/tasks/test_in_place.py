"""A package that stands where its network did."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from lightning_compress.coreml import CoreMLExport, ImageInput
from lightning_compress.errors import ConfigurationError
from lightning_compress.runtime import load
from lightning_compress.tasks import Classification, InPlace, Task
from lightning_compress.tasks.in_place import as_pixels


@dataclass
class Answer:
    logits: Tensor
    hidden: tuple[Tensor, ...]
    loss: Tensor | None = None


class Network(nn.Module):
    """Returns a dataclass, and is called by position or by name."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, self.width)
        self.second = nn.Linear(self.width, 3)

    def forward(self, values: Tensor, shift: Tensor, labels: Tensor | None = None) -> Answer:
        hidden = self.first(values + shift).relu()
        return Answer(self.second(hidden), (hidden,))

    def features(self, values: Tensor) -> Tensor:
        return self.first(values)


def placed(
    network: nn.Module, inputs, tmp_path, task: Task | None = None, image: ImageInput | None = None
) -> InPlace:
    task = task or Task()
    export = task.interface(
        CoreMLExport(tmp_path / "net.mlpackage", compute_precision="float32", image=image), []
    )
    package = load(export.run(network.eval(), inputs).path)
    return InPlace(package, network, inputs, task, image)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


@pytest.mark.parametrize("by_name", [False, True])
def test_it_returns_what_the_network_does_in_the_structure_that_the_network_does(network, tmp_path, by_name):
    example = (
        {"shift": torch.rand(1, 8), "values": torch.rand(1, 8)}
        if by_name
        else (torch.rand(1, 8), torch.rand(1, 8))
    )
    package = placed(network, example, tmp_path)
    values, shift = torch.rand(5, 8), torch.rand(5, 8)
    for answer in (package(values, shift), package(values, shift=shift), package(shift=shift, values=values)):
        expected = network(values, shift)
        assert isinstance(answer, Answer)
        assert answer.loss is None
        torch.testing.assert_close(answer.logits, expected.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(answer.hidden[0], expected.hidden[0], atol=1e-5, rtol=1e-5)


def test_what_is_asked_beside_a_call_is_a_plain_value_or_an_error_that_names_it(network, tmp_path):
    package = placed(network, (torch.rand(1, 8), torch.rand(1, 8)), tmp_path)
    assert package.width == 6
    with pytest.raises(ConfigurationError, match="its layer 'first', which a package cannot give"):
        package.first(torch.rand(1, 8))
    with pytest.raises(ConfigurationError, match="its method 'features'"):
        package.features(torch.rand(1, 8))
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = package.nothing


def test_a_call_that_the_package_cannot_take_is_refused(network, tmp_path):
    package = placed(network, (torch.rand(1, 8), torch.rand(1, 8)), tmp_path)
    with pytest.raises(
        ConfigurationError, match=r"called with \['labels'\], and was exported with 2 tensors"
    ):
        package(torch.rand(2, 8), torch.rand(2, 8), labels=torch.zeros(2))
    with pytest.raises(ConfigurationError, match="missing a required argument: 'shift'"):
        package(torch.rand(2, 8))


@pytest.mark.parametrize(
    "image",
    [
        ImageInput(scale=1 / 255),
        ImageInput(scale=1 / 127.5, bias=-1.0, color_layout="BGR"),
        ImageInput.normalized((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)),
        ImageInput(scale=1 / 255, color_layout="GRAYSCALE"),
    ],
    ids=["scaled", "BGR", "normalized", "grey"],
)
def test_an_image_becomes_the_pixels_that_the_network_sees_as_it(image, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(image.channels, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))
    package = placed(network, (torch.rand(1, image.channels, 8, 8),), tmp_path, image=image)
    values = torch.rand(3, image.channels, 8, 8)
    torch.testing.assert_close(package(values), network(values), atol=1e-4, rtol=1e-4)
    whole = (torch.rand(1, image.channels, 8, 8) * 255).round()
    scale, bias = (torch.tensor(v).view(1, -1, 1, 1) for v in (image.scales(), image.biases()))
    ordered = whole.flip(1) if image.color_layout == "BGR" else whole
    torch.testing.assert_close(as_pixels(ordered * scale + bias, image), whole, atol=1e-3, rtol=0)


def test_a_loss_of_logits_is_the_same_by_a_package_that_gives_probabilities(tmp_path):
    torch.manual_seed(0)
    network = nn.Linear(8, 5)
    package = placed(network, (torch.rand(1, 8),), tmp_path, Classification())
    values, classes = torch.randn(16, 8), torch.randint(0, 5, (16,))
    expected = nn.functional.cross_entropy(network(values), classes)
    torch.testing.assert_close(
        nn.functional.cross_entropy(package(values), classes), expected, atol=1e-4, rtol=1e-4
    )
