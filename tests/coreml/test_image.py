from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_compress import runtime
from lightning_compress.coreml import CoreMLExport, ImageInput
from lightning_compress.errors import ConfigurationError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def convolution():
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3).eval()


@pytest.mark.parametrize(
    ("image", "preprocess"),
    [
        (ImageInput(scale=1 / 255), lambda pixels: pixels / 255),
        (ImageInput(scale=2 / 255, bias=-1), lambda pixels: pixels / 127.5 - 1),
        (
            ImageInput(scale=1 / 255, bias=(-0.1, -0.2, -0.3)),
            lambda pixels: pixels / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1),
        ),
        (
            ImageInput.normalized(MEAN, STD),
            lambda pixels: (
                (pixels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
            ),
        ),
    ],
    ids=["scale", "scale and bias", "bias a channel", "scale and bias a channel"],
)
def test_the_network_sees_scale_times_pixel_plus_bias(image, preprocess, convolution, tmp_path):
    pixels = torch.randint(0, 256, (1, 3, 9, 9)).float()
    path = CoreMLExport(tmp_path / "net.mlpackage", image=image).run(convolution, pixels).path
    found = runtime.load(path)(image=pixels)["output"]
    torch.testing.assert_close(found, convolution(preprocess(pixels)), atol=5e-3, rtol=5e-3)


def test_one_value_holds_for_all_channels():
    image = ImageInput(scale=2, bias=(1, 2, 3))
    assert image.scales() == (2, 2, 2)
    assert image.biases() == (1, 2, 3)
    assert not image.in_program
    assert ImageInput.normalized(MEAN, STD).in_program


def test_an_unknown_layout_is_refused_with_the_valid_ones():
    with pytest.raises(
        ConfigurationError, match="color_layout='RGBA' is unknown; valid are RGB, BGR, GRAYSCALE"
    ):
        ImageInput(color_layout="RGBA")


@pytest.mark.parametrize("name", ["scale", "bias"])
def test_a_wrong_number_of_channels_is_refused(name):
    with pytest.raises(ConfigurationError, match=rf"{name}=\[1, 2\] .* has 2 values; RGB takes one, or 3"):
        ImageInput(**{name: [1, 2]})
