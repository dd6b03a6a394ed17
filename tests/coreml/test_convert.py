from __future__ import annotations

import random

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from lightning_compress.coreml.convert import Interface, convert
from lightning_compress.coreml.image import ImageInput
from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.package.inspection import inspect


class TwoOutputs(nn.Module):
    def forward(self, tokens, mask):
        return (tokens * 2).float() * mask, mask.sum(dim=1)


def test_names_default_to_plain_ones(network, digit):
    report = inspect(convert(network, digit, target=ct.target.iOS15))
    assert [(feature.name, feature.type, feature.shape) for feature in report.inputs] == [
        ("input", "array float32", (1, 1, 8, 8))
    ]
    assert [feature.name for feature in report.outputs] == ["output"]


def test_several_inputs_and_outputs_keep_their_names_types_and_shapes():
    inputs = (torch.ones(1, 4, dtype=torch.int64), torch.ones(1, 4))
    report = inspect(convert(TwoOutputs(), inputs, target=ct.target.iOS16))
    assert [(feature.name, feature.type) for feature in report.inputs] == [
        ("tokens", "array int32"),
        ("mask", "array float32"),
    ]
    assert [feature.name for feature in report.outputs] == ["output_0", "output_1"]


def test_given_names_are_used(network, digit):
    interface = Interface(input_names=["digit"], output_names=["logits"])
    report = inspect(convert(network, digit, target=ct.target.iOS15, interface=interface))
    assert [feature.name for feature in report.inputs + report.outputs] == ["digit", "logits"]


@pytest.mark.parametrize(
    ("argument", "names"), [("input_names", ["a", "b"]), ("output_names", ["a", "b", "c"])]
)
def test_a_wrong_number_of_names_is_refused(network, digit, argument, names):
    with pytest.raises(ConfigurationError, match=f"{argument}=.*{len(names)} names"):
        convert(network, digit, target=ct.target.iOS15, interface=Interface(**{argument: names}))


def test_float32_is_stored_and_computed_as_such(network, digit):
    report = inspect(convert(network, digit, target=ct.target.iOS15, compute_precision="float32"))
    assert {layer.bits for layer in report.layers} == {32}
    assert report.weight_bytes > 1.9 * report.float16_weight_bytes


def test_an_image_input_has_its_layout_scale_and_bias(network, digits):
    interface = Interface(image=ImageInput(scale=1 / 255, bias=-0.5, color_layout="GRAYSCALE"))
    report = inspect(convert(network, digits[:4], target=ct.target.iOS15, interface=interface))
    (image,) = report.inputs
    assert (image.name, image.type, image.shape) == ("image", "image GRAYSCALE", (8, 8))
    assert image.scale == pytest.approx((1 / 255,), rel=1e-3)
    assert image.bias == pytest.approx((-0.5,))


def test_scales_that_differ_between_channels_become_part_of_the_program():
    torch.manual_seed(0)
    interface = Interface(image=ImageInput.normalized((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    model = convert(nn.Conv2d(3, 4, 1), torch.rand(1, 3, 6, 6), target=ct.target.iOS15, interface=interface)
    report = inspect(model)
    assert report.inputs[0].type == "image RGB"
    scales = [layer for layer in report.operations if layer in ("mul", "batch_norm")]
    assert scales


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 8, 8), (1, 1)])
def test_an_input_that_is_no_image_of_the_layout_is_refused(network, shape):
    interface = Interface(image=ImageInput(color_layout="GRAYSCALE"))
    with pytest.raises(ConfigurationError, match=r"GRAYSCALE needs \(1, 1, height, width\)"):
        convert(network, torch.rand(shape), target=ct.target.iOS15, interface=interface)


def test_an_image_by_name_with_scales_a_channel_is_converted():
    class Named(nn.Module):
        def forward(self, *, picture, weight):
            return picture.mean() * weight

    example = {"picture": torch.rand(1, 3, 6, 6), "weight": torch.ones(1)}
    interface = Interface(image=ImageInput(scale=(1, 2, 3)))
    report = inspect(convert(Named(), example, target=ct.target.iOS15, interface=interface))
    assert [(feature.name, feature.type) for feature in report.inputs] == [
        ("picture", "image RGB"),
        ("weight", "array float32"),
    ]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_operation_that_coremltools_lacks_is_named_with_the_module():
    class Unknown(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    with pytest.raises(CompressionError, match=r"cannot convert Unknown for iOS15.*bessel_j0"):
        convert(Unknown(), torch.rand(3), target=ct.target.iOS15)


def test_labels_make_a_classifier(network, digit):
    labels = [f"digit {index}" for index in range(10)]
    report = inspect(
        convert(
            nn.Sequential(network, nn.Softmax(dim=1)),
            digit,
            target=ct.target.iOS15,
            interface=Interface(class_labels=labels),
        )
    )
    assert list(report.labels) == labels
    assert [(feature.name, feature.type) for feature in report.outputs] == [
        ("classLabel", "string"),
        ("classLabel_probs", "dictionary"),
    ]


def test_labels_that_do_not_fit_the_output_are_refused(network, digit):
    with pytest.raises(
        ConfigurationError, match=r"class_labels has 3 labels for an output of shape \(1, 10\)"
    ):
        convert(network, digit, target=ct.target.iOS15, interface=Interface(class_labels=["a", "b", "c"]))


def test_labels_for_several_outputs_are_refused():
    inputs = (torch.ones(1, 4), torch.ones(1, 4))
    with pytest.raises(ConfigurationError, match="returns 2"):
        convert(TwoOutputs(), inputs, target=ct.target.iOS15, interface=Interface(class_labels=["a"]))


def test_nothing_of_the_callers_changes(network, digit):
    network.train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    threads = torch.get_num_threads()
    with torch.enable_grad():
        convert(network, digit, target=ct.target.iOS15)
        assert torch.is_grad_enabled()
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    assert torch.get_num_threads() == threads


def test_no_progress_bar_and_no_warning_reaches_the_user(network, digit, capfd):
    convert(network, digit, target=ct.target.iOS16)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_a_network_in_bfloat16_under_autocast_is_converted_like_its_float32_copy(network, digit):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model = convert(network.to(torch.bfloat16), digit, target=ct.target.iOS15)
    assert inspect(model).operations.get("cast", 0) == 2
