from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_compress import runtime
from lightning_compress.coreml import CoreMLExport, ImageInput, SizeRange
from lightning_compress.errors import ConfigurationError, PackageError


@pytest.fixture(scope="module")
def pooled() -> nn.Module:
    """A network that takes images of any size."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).eval()


def pixels(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(0, 256, (1, 3, height, width), generator=generator).float()


def exported(network, sizes, tmp_path, target=None):
    image = ImageInput(scale=1 / 255, sizes=sizes)
    export = CoreMLExport(
        tmp_path / "net.mlpackage",
        image=image,
        compute_precision="float32",
        minimum_deployment_target=target,
    )
    return runtime.load(export.run(network, torch.rand(1, 3, 32, 32)).path)


@pytest.mark.parametrize("target", [None, "iOS18"])
@pytest.mark.parametrize(
    ("sizes", "taken", "refused"),
    [
        ([(32, 48), [64, 32]], [(32, 32), (32, 48), (64, 32)], [(48, 48), (32, 64)]),
        (SizeRange((16, 64), [24, 80]), [(32, 32), (16, 24), (64, 80), (33, 57)], [(15, 24), (64, 81)]),
    ],
)
def test_a_package_takes_the_sizes_asked_for_and_no_others(pooled, tmp_path, sizes, taken, refused, target):
    package = exported(pooled, sizes, tmp_path, target)
    for size in taken:
        image = pixels(*size)
        with torch.no_grad():
            torch.testing.assert_close(package(image)["output"], pooled(image / 255), atol=1e-4, rtol=1e-4)
    for size in refused:
        with pytest.raises(PackageError, match="got the shape"):
            package(pixels(*size))


def test_one_size_that_is_the_example_images_is_fixed(pooled, tmp_path):
    package = exported(pooled, [(32, 32)], tmp_path)
    assert package.inputs[0].shapes == ()
    with pytest.raises(PackageError, match="got the shape"):
        package(pixels(48, 48))


def test_every_listed_size_is_verified_and_a_ranges_least():
    assert ImageInput(sizes=[(8, 9), (4, 4)]).sizes_to_verify((4, 4)) == [(4, 4), (8, 9)]
    assert ImageInput(sizes=SizeRange((2, 8), (3, 8))).sizes_to_verify((4, 4)) == [(4, 4), (2, 3)]
    assert ImageInput().sizes_to_verify((4, 4)) == [(4, 4)]


@pytest.mark.parametrize("sizes", [[(32,)], [32], [(0, 32)], [(32, 1.5)]])
def test_sizes_that_are_no_pairs_are_refused(sizes):
    with pytest.raises(ConfigurationError, match="no pair of height and width"):
        ImageInput(sizes=sizes)


@pytest.mark.parametrize("bounds", [(64, 32), (0, 8), (8,), (1, 2, 3)])
def test_ranges_that_are_none_are_refused(bounds):
    with pytest.raises(ConfigurationError, match="no pair of a least and a greatest size|a bound in height"):
        SizeRange(bounds, (8, 16))


def test_an_example_image_outside_of_the_range_is_refused(pooled, tmp_path):
    with pytest.raises(ConfigurationError, match="32 x 32 pixels is outside"):
        exported(pooled, SizeRange((48, 64), (16, 64)), tmp_path)
