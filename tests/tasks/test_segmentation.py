from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_compress.coreml import CoreMLExport, ImageInput
from lightning_compress.errors import ConfigurationError
from lightning_compress.package.inspection import inspect
from lightning_compress.runtime import load
from lightning_compress.tasks import InPlace, Segmentation

IMAGE = ImageInput(scale=1 / 255)
EXAMPLE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()


def placed(network: nn.Module, task: Segmentation, tmp_path) -> InPlace:
    export = CoreMLExport(tmp_path / "net.mlpackage", image=IMAGE, compute_precision="float32")
    path = task.interface(export, []).run(network, EXAMPLE).path
    return InPlace(load(path), network, EXAMPLE, task, IMAGE)


def test_a_package_gives_the_probability_of_each_class_for_every_pixel(network, tmp_path):
    package = placed(network, Segmentation(), tmp_path)
    images = torch.rand(3, 3, 16, 16)
    (found,) = package.outputs([images * 255]).values()
    torch.testing.assert_close(found, network(images).softmax(dim=1), atol=1e-4, rtol=1e-4)
    masks = torch.randint(0, 4, (3, 16, 16))
    torch.testing.assert_close(
        nn.functional.cross_entropy(package(images), masks),
        nn.functional.cross_entropy(network(images), masks),
        atol=1e-4,
        rtol=1e-4,
    )


def test_or_the_most_probable_class_alone(network, tmp_path):
    package = placed(network, Segmentation(output="classes"), tmp_path)
    (feature,) = inspect(tmp_path / "net.mlpackage").outputs
    assert feature.name == "classes"
    images = torch.rand(3, 3, 16, 16)
    assert torch.equal(package(images).argmax(dim=1), network(images).argmax(dim=1))


@pytest.mark.parametrize("output", ["probabilities", "classes"])
@pytest.mark.parametrize("classes", [[], ["background", "a", "b", "c"]], ids=["unnamed", "named"])
def test_its_picture_shows_image_heat_and_classes(network, tmp_path, output, classes):
    package = placed(network, Segmentation(output=output), tmp_path)
    pixels = torch.rand(2, 3, 16, 16) * 255
    picture = package.task.picture(pixels, package.outputs([pixels]), classes, threshold=0.3, columns=2)
    assert picture.shape[0] == 3
    assert picture.shape[2] > picture.shape[1]


def test_one_score_a_sample_is_no_segmentation(tmp_path):
    export = Segmentation().interface(CoreMLExport(tmp_path / "net.mlpackage"), [])
    with pytest.raises(ConfigurationError, match=r"task=segmentation needs a network.*\[\(1, 3\)\]"):
        export.run(nn.Linear(8, 3), torch.rand(1, 8))


def test_an_unknown_output_is_refused():
    with pytest.raises(ConfigurationError, match="output of the task"):
        Segmentation(output="masks")


def test_pixels_are_as_far_apart_as_the_distributions_of_their_classes():
    logits = torch.randn(2, 3, 4, 4)
    (found,) = Segmentation().comparable([logits])
    torch.testing.assert_close(found, logits.softmax(dim=1).sqrt())
