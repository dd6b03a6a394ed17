from __future__ import annotations

import copy
import dataclasses
import sys
import warnings

import pytest
import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torch import nn

from lightning_compress import Compression, CoreMLExport, DKMPalettization, LinearQuantization
from lightning_compress.coreml import ImageInput, NonMaximumSuppression, Tolerance, softmax_outputs
from lightning_compress.coreml.verification import (
    random_samples,
    reference_outputs,
    run_in_coreml,
    verification_table,
)
from lightning_compress.coreml.verification.running import effect_of_rounding
from lightning_compress.errors import PackageError, VerificationError
from lightning_compress.package import decompressed_weights
from lightning_compress.package.targets import Capability


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16


class DeepNetwork(nn.Module):
    """Deep enough for one rounding more or less to travel; classifies digits."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [
            nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()) for _ in range(6)
        ]
        self.layers = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), *blocks)
        self.head = nn.Linear(16, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(image).mean((2, 3)))


class Overflowing(nn.Module):
    """Passes through values that float16 does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (self.layer(image.flatten(1)) * 1e6).square() * 1e-12


def test_a_package_that_computes_what_its_module_does_takes_its_place(digit_network, digits, tmp_path):
    export = CoreMLExport(tmp_path / "net.mlpackage")
    exported = export.run(digit_network.eval(), digits[:1])
    verification = export.compare(exported.path, digit_network, digits[:1])
    assert verification.passed
    (output,) = verification.outputs
    assert output.name == "output"
    assert 0 < output.largest < 1e-2 * output.largest_value


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_one_that_does_not_leaves_the_earlier_package(digit_network, digits, tmp_path):
    export = CoreMLExport(tmp_path / "net.mlpackage")
    path = export.run(digit_network.eval(), digits[:1]).path
    before = decompressed_weights(path)
    with pytest.raises(
        VerificationError, match=r"'output' differs by inf at most.*compute_precision='float32'"
    ):
        export.run(Overflowing().eval(), digits[:1])
    assert decompressed_weights(path).keys() == before.keys()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net.md", "net.mlpackage"]


def test_float32_holds_what_float16_does_not(digits, tmp_path):
    export = CoreMLExport(tmp_path / "net.mlpackage", compute_precision="float32")
    assert export.run(Overflowing().eval(), digits[:1]).path.is_dir()


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_without_verification_it_is_written_as_it_is(digits, tmp_path):
    export = CoreMLExport(tmp_path / "net.mlpackage", verify=False)
    assert export.run(Overflowing().eval(), digits[:1]).path.is_dir()


def test_the_tolerance_is_the_exports(digit_network, digits, tmp_path):
    export = CoreMLExport(tmp_path / "net.mlpackage", tolerance=Tolerance(relative=1e-9))
    with pytest.raises(VerificationError, match="tolerance"):
        export.run(digit_network.eval(), digits[:1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "image",
    [
        ImageInput(scale=1 / 255, color_layout="GRAYSCALE"),
        ImageInput(scale=1 / 100, bias=-1, color_layout="GRAYSCALE", sizes=[(16, 16), (8, 24)]),
    ],
)
def test_a_classifier_with_labels_is_verified_by_its_probabilities(digit_network, digits, tmp_path, image):
    # One cell, which is what coremltools pools images of any size to.
    digit_network.features[-1] = nn.AdaptiveAvgPool2d(1)
    digit_network.head = nn.Linear(32, 10)
    export = CoreMLExport(
        tmp_path / "net.mlpackage",
        image=image,
        class_labels=[f"digit {label}" for label in range(10)],
        wrapper=softmax_outputs,
    )
    exported = export.run(digit_network.eval(), digits[:1])
    (output,) = export.compare(exported.path, digit_network, digits[:1]).outputs
    assert output.name == "classLabel_probs"


class Classes(nn.Module):
    """The place of the largest value in each row, moved on by some."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image.argmax(-1) + self.shift) % image.shape[-1]


class Shifted(nn.Module):
    """Its input, moved by a number."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image + self.shift


@pytest.mark.parametrize(
    ("module", "reference"),
    [(Classes(0), Classes(1)), (Shifted(0.0), Shifted(0.3))],
    ids=["labels", "amounts"],
)
def test_another_module_to_compare_with_does_not_excuse_its_own_difference(
    digits, tmp_path, module, reference
):
    export = CoreMLExport(tmp_path / "net.mlpackage")
    with pytest.raises(VerificationError, match="does not compute what its module does"):
        export.run(module, digits[:1], reference=reference)
    assert export.run(module, digits[:1], reference=copy.deepcopy(module)).path.is_dir()


class Colors(nn.Module):
    """Tells the channels apart, so that a wrong order is found."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3)) * torch.tensor([1.0, 10.0, 100.0])


@pytest.mark.parametrize("layout", ["RGB", "BGR"])
@pytest.mark.parametrize("scale", [1 / 255, (1 / 255, 2 / 255, 3 / 255)])
def test_the_order_of_colours_and_their_scales_are_those_of_the_network(tmp_path, layout, scale):
    export = CoreMLExport(
        tmp_path / "net.mlpackage", image=ImageInput(scale=scale, bias=0.5, color_layout=layout)
    )
    exported = export.run(Colors(), torch.rand(1, 3, 16, 16))
    other = dataclasses.replace(
        export, image=ImageInput(scale=scale, bias=0.5, color_layout="BGR" if layout == "RGB" else "RGB")
    )
    assert not other.compare(exported.path, Colors(), torch.rand(1, 3, 16, 16)).passed


def test_inputs_that_come_by_name_are_verified(tmp_path):
    class Two(nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return left - right, left * right

    generator = torch.Generator().manual_seed(0)
    inputs = {"right": torch.rand(3, generator=generator), "left": torch.rand(3, generator=generator)}
    export = CoreMLExport(tmp_path / "net.mlpackage", output_names=["difference", "product"])
    exported = export.run(Two(), inputs)
    outputs = export.compare(exported.path, Two(), inputs).outputs
    assert [output.name for output in outputs] == ["difference", "product"]


def test_a_detector_is_verified_before_suppression_in_pixels(tmp_path):
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 6, 3, stride=8)

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            cells = self.head(image).flatten(2).transpose(1, 2)[0]
            return cells[:, :2].softmax(-1), cells[:, 2:].sigmoid()

    torch.manual_seed(0)
    network = Detector().eval()
    export = CoreMLExport(
        tmp_path / "net.mlpackage",
        image=ImageInput(scale=1 / 255),
        class_labels=["a", "b"],
        nms=NonMaximumSuppression(confidence_threshold=0.99),
    )
    inputs = torch.rand(1, 3, 64, 48)
    verification = export.compare(export.run(network, inputs).path, network, inputs)
    confidence, coordinates = verification.outputs
    assert (confidence.name, coordinates.name) == ("confidence", "coordinates")
    assert confidence.pixels is None
    assert coordinates.allowed == pytest.approx(5 / 64 + 3 * coordinates.rounding)
    assert coordinates.pixels == 1 / 64
    rows = verification_table(verification).columns[2].cells
    assert list(rows)[1].endswith(" px")


class TestCompression:
    def fit(self, digit_module, digit_data, make_trainer, path, **keywords):
        compression = Compression(
            DKMPalettization(n_bits=2, weight_threshold=100), export=CoreMLExport(path, **keywords)
        )
        make_trainer(compression, max_steps=3, limit_val_batches=0).fit(digit_module, digit_data)
        return compression

    def test_a_fit_fails_loudly_when_the_package_differs(
        self, digit_module, digit_data, make_trainer, tmp_path
    ):
        with (
            pytest.warns(
                UserWarning, match="before training, the outputs .*'output'.* far from the module's"
            ),
            pytest.raises(VerificationError, match="does not compute what its module does"),
        ):
            self.fit(
                digit_module, digit_data, make_trainer, tmp_path / "net.mlpackage", tolerance=Tolerance(1e-9)
            )
        assert list(tmp_path.iterdir()) == []

    def test_and_exports_where_it_does_not(self, digit_module, digit_data, make_trainer, tmp_path):
        compression = self.fit(digit_module, digit_data, make_trainer, tmp_path / "net.mlpackage")
        assert compression.exported.path.is_dir()


def test_random_samples_are_the_same_on_each_call_and_unlike_one_another():
    once, again = (random_samples(torch.zeros(1, 3, 256, 192), ImageInput()).package for _ in range(2))
    assert len(once) == 4
    for (one,), (other,) in zip(once, again, strict=True):
        assert torch.equal(one, other)
        assert one.shape == (1, 3, 256, 192)
        assert one.min() >= 0
        assert one.max() <= 255
        assert torch.equal(one, one.round())
    # The smoother a picture, the less its neighbouring pixels differ.
    roughness = [float((one[..., 1:] - one[..., :-1]).abs().mean()) for (one,) in once]
    assert roughness == sorted(roughness, reverse=True)


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs here")
def test_core_ml_is_asked_for_on_macos_alone(tmp_path):
    with pytest.raises(PackageError, match="Core ML runs on macOS alone"):
        run_in_coreml(tmp_path / "net.mlpackage", [])


@pytest.fixture
def fitted(digit_module, digit_data, make_trainer, tmp_path):
    """A fit that quantizes weights and activations and exports, which verifies."""
    digit_module.model = DeepNetwork()
    compression = Compression(
        LinearQuantization(milestones=[0, 10, 20, 20]),
        module="model",
        export=CoreMLExport(tmp_path / "net.mlpackage"),
    )
    make_trainer(compression, max_epochs=5, limit_val_batches=0).fit(digit_module, digit_data)
    return compression


class TestQuantizedActivations:
    def verification(self, fitted, module, digits):
        export = CoreMLExport(fitted.exported.path)
        return export.compare(fitted.exported.path, module, digits[:1], {Capability.INT8_ACTIVATIONS})

    def test_are_judged_by_what_torch_differs_from_itself(self, fitted, digits):
        verification = self.verification(fitted, fitted.finalized, digits)
        (output,) = verification.outputs
        assert verification.passed
        assert output.rounding is not None
        console = Console(width=200)
        with console.capture() as capture:
            console.print(verification_table(verification))
        assert "torch, rounded" in capture.get()

    def test_run_without_warnings_that_nobody_can_act_on(self, fitted, digits):
        torch.set_warn_always(True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                reference_outputs(fitted.finalized, [(digits[:1],)], ["output"])
        finally:
            torch.set_warn_always(False)

    def test_do_not_excuse_a_layer_that_is_another(self, fitted, digits):
        wrong = copy.deepcopy(fitted.finalized)
        with torch.no_grad():
            wrong.head.bias += 0.5 * torch.randn(10, generator=torch.Generator().manual_seed(1))
        assert not self.verification(fitted, wrong, digits).passed


class TestADisturbedModule:
    """Its numbers are rounded to float16, as a package's are."""

    tolerance = Tolerance(times_rounding=3.0)

    def disturbed(self, module, images):
        outputs = reference_outputs(module, [(images,)], ["output"])
        expected = outputs[0]["output"]
        rounding = effect_of_rounding(module, [(images,)], outputs, self.tolerance)
        found = rounding.rounded[0]["output"]
        return (found - expected).abs().max() / expected.abs().max()

    def test_differs_a_little(self, digit_network, digits):
        assert 0 < self.disturbed(digit_network.eval(), digits[:4]) < 1e-2

    def test_keeps_numbers_that_float16_cannot_hold(self, digits):
        normalize = nn.BatchNorm2d(1).eval()
        normalize.running_var.fill_(8e5)
        normalize.weight.data.fill_(1e3)
        assert self.disturbed(normalize, digits[:4]) < 1e-2

    def test_may_hold_buffers_that_are_expanded(self, digits):
        class Shifted(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("shift", torch.full((1,), 1 / 3).expand(8))

            def forward(self, image):
                return image + self.shift

        module = Shifted()
        assert 0 < self.disturbed(module, digits[:4]) < 1e-2
        assert module.shift[0] == torch.tensor(1 / 3)

    def test_is_not_made_where_nobody_asks(self, digit_network, digits):
        samples = [(digits[:1],)]
        outputs = reference_outputs(digit_network, samples, ["output"])
        assert effect_of_rounding(digit_network, samples, outputs, Tolerance()) is None
        labels = [{"output": outputs[0]["output"].argmax(1)}]
        assert effect_of_rounding(digit_network, samples, labels, Tolerance()) is not None
