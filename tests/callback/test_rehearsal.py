"""What would end a fit after its last step ends it before its first."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lightning_compress import (
    Compression,
    CoreMLExport,
    DKMPalettization,
    LinearQuantization,
    MagnitudePruning,
    runtime,
)
from lightning_compress.callback.finishing import rehearse
from lightning_compress.coreml import ImageInput, Tolerance
from lightning_compress.errors import CompressionError
from lightning_compress.methods.mechanism.preparation import PreparedModule
from tests.process_state import ProcessState
from tests.training import Training


class Convolutional(nn.Module):
    """Six channels of 8 x 8 values from an image, and what a test makes of them."""

    def __init__(self, after: Callable[[Tensor], Any], channels: int = 3) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, 6, 3, padding=1)
        self.after = after

    def forward(self, image: Tensor) -> Any:
        return self.after(self.layer(image))


class Refusing(nn.Module):
    """A wrapper with a mistake in it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        raise KeyError("no such head")


def as_it_is(values: Tensor) -> Tensor:
    return values


def unknown_to_the_converter(values: Tensor) -> Tensor:
    return torch.special.bessel_j0(values)


def with_masked(module: Convolutional) -> Convolutional:
    module.mask = nn.Parameter(torch.full((2, 2), -torch.inf), requires_grad=False)
    return module


MISTAKES = {
    "an op without converter": (
        lambda: Convolutional(unknown_to_the_converter),
        {},
        "special_bessel_j0",
    ),
    "more labels than classes": (
        lambda: Convolutional(lambda values: values.mean((2, 3)).softmax(1)),
        {"class_labels": ["a", "b"]},
        "2.*6|6.*2",
    ),
    "a grey network of a colour image": (
        lambda: Convolutional(as_it_is, channels=1),
        {"image": ImageInput(color_layout="RGB")},
        r"'image' has shape \(1, 1, 8, 8\); an image input of layout RGB needs",
    ),
    "more input names than inputs": (
        lambda: Convolutional(as_it_is),
        {"input_names": ["image", "mask"]},
        "input_names",
    ),
    "fewer output names than outputs": (
        lambda: Convolutional(lambda values: (values, -values)),
        {"output_names": ["one"]},
        "output_names",
    ),
    "a description of no input": (
        lambda: Convolutional(as_it_is),
        {"input_descriptions": {"picture": "what is seen"}},
        "input_descriptions names 'picture'; the package has input",
    ),
    "a wrapper that raises": (
        lambda: Convolutional(as_it_is),
        {"wrapper": Refusing},
        "Refusing.*no such head",
    ),
    "a frozen mask of infinities": (
        lambda: with_masked(Convolutional(as_it_is)),
        {},
        "'mask' holds NaN or infinity before the fit.*-1e4",
    ),
}


def training_of(network: nn.Module, channels: int = 3) -> Training:
    return Training(network, lambda count: torch.rand(count, channels, 8, 8), steps=1)


def never(*arguments: object) -> None:
    raise AssertionError("training began")


# coremltools 9 forgets the folder of a conversion that fails.
@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_before_the_first_step(tmp_path, make_trainer, mistake):
    network, arguments, told = MISTAKES[mistake]
    module = network()
    training = training_of(module, module.layer.in_channels)
    training.training_step = never
    compression = Compression(
        DKMPalettization(n_bits=2, weight_threshold=0),
        export=CoreMLExport(tmp_path / "net.mlpackage", **arguments),
    )
    with pytest.raises(CompressionError, match=f"(?s){told}"):
        make_trainer(compression).fit(training)
    assert not list(tmp_path.glob("*.mlpackage"))


def test_the_error_of_a_wrapper_is_there_to_look_into(tmp_path, make_trainer):
    compression = Compression(export=CoreMLExport(tmp_path / "net.mlpackage", wrapper=Refusing))
    with pytest.raises(CompressionError) as raised:
        make_trainer(compression).fit(training_of(Convolutional(as_it_is)))
    assert isinstance(raised.value.__cause__, KeyError)


def test_an_overflow_in_half_precision_is_warned_of_with_what_to_set(tmp_path, make_trainer):
    export = CoreMLExport(tmp_path / "net.mlpackage")
    training = training_of(Convolutional(lambda values: (values + 300) ** 2))
    training.training_step = never
    with (
        pytest.warns(UserWarning, match="overflow.*set compute_precision='float32'"),
        pytest.raises(AssertionError, match="training began"),
    ):
        make_trainer(Compression(export=export)).fit(training)


def test_its_seconds_are_printed_and_a_resumed_fit_skips_it(tmp_path, make_trainer, capsys):
    def fit(epochs: int, checkpoint: str | None) -> str:
        trainer = make_trainer(
            Compression(
                DKMPalettization(n_bits=2, weight_threshold=0),
                export=CoreMLExport(tmp_path / "net.mlpackage"),
            ),
            max_epochs=epochs,
        )
        trainer.fit(training_of(Convolutional(as_it_is)), ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return capsys.readouterr().out

    assert "The export was rehearsed in" in fit(1, None)
    assert "rehearsed" not in fit(2, str(tmp_path / "last.ckpt"))


def test_a_dictionary_of_outputs_gives_its_names_to_the_package(tmp_path, make_trainer):
    network = Convolutional(lambda values: {"sum": values.sum((2, 3)), "most": values.amax((2, 3))})
    compression = Compression(
        DKMPalettization(n_bits=2, weight_threshold=0), export=CoreMLExport(tmp_path / "net.mlpackage")
    )
    make_trainer(compression, max_epochs=1).fit(training_of(network))
    image = torch.rand(1, 3, 8, 8)
    outputs = runtime.load(tmp_path / "net.mlpackage")(input=image)
    expected = compression.finalized(image)
    assert set(outputs) == {"sum", "most"}
    np.testing.assert_allclose(outputs["sum"], expected["sum"].detach(), atol=0.1)


class Two(nn.Module):
    """Two inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, image: Tensor, *, scale: Tensor) -> Tensor:
        return self.layer(image) * scale


def test_example_inputs_of_a_dictionary_are_passed_by_name(tmp_path, make_trainer):
    training = Training(Two(), lambda count: torch.rand(count, 3, 8, 8), steps=1)
    training.example_input_array = {"scale": torch.ones(1, 6, 8, 8), "image": torch.rand(1, 3, 8, 8)}
    training.training_step = lambda batch, batch_idx: (
        training.model(batch[0], scale=torch.ones(1)).square().mean()
    )
    compression = Compression(
        DKMPalettization(n_bits=2, weight_threshold=0), export=CoreMLExport(tmp_path / "net.mlpackage")
    )
    make_trainer(compression, max_epochs=1).fit(training)
    assert {feature.name for feature in compression.exported.report.inputs} == {"image", "scale"}


class Noisy(nn.Module):
    """Draws random numbers in training and in evaluation, and keeps statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Conv2d(8, 6, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image) + 1e-4 * torch.rand(1)


METHODS = {
    "palettized": lambda: [DKMPalettization(n_bits=2, weight_threshold=0)],
    "pruned": lambda: [MagnitudePruning(scheduler={"begin_step": 1, "end_step": 3})],
    "quantized": lambda: [LinearQuantization(milestones=[0, 1, 2, 3])],
}


def fit_of(methods: str, make_trainer: Any, path: Path, **settings: Any) -> Compression:
    L.seed_everything(7, verbose=False)
    # Random numbers are no outputs to compare.
    export = CoreMLExport(path, verify=False, card=False)
    compression = Compression(*METHODS[methods](), export=export, **settings)
    training = Training(Noisy(), lambda count: torch.rand(count, 3, 8, 8), steps=4)
    make_trainer(compression, max_epochs=1).fit(training)
    return compression


@pytest.mark.parametrize("methods", ["palettized", "quantized"])
def test_a_rehearsed_fit_and_one_without_write_the_same_bytes(tmp_path, make_trainer, methods):
    rehearsed = fit_of(methods, make_trainer, tmp_path / "rehearsed.mlpackage")
    other = fit_of(methods, make_trainer, tmp_path / "other.mlpackage", rehearse=False)
    files = [
        {
            file.relative_to(compression.exported.path): file.read_bytes()
            for file in compression.exported.path.rglob("*")
            if file.name in ("model.mlmodel", "weight.bin")
        }
        for compression in (rehearsed, other)
    ]
    assert len(files[0]) == 2
    assert files[0] == files[1]


def everything_of(module: nn.Module) -> dict[str, Any]:
    """What can be seen of a module: tensors and where they lie, gradients, modes, hooks, attributes."""
    seen: dict[str, Any] = {}
    for name, part in module.named_modules():
        seen[name] = (
            part.training,
            type(part),
            len(part._forward_hooks),
            len(part._forward_pre_hooks),
            set(vars(part)),
        )
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        seen[f"{name}!"] = (
            tensor.data_ptr(),
            tensor.detach().clone().tolist(),
            tensor.requires_grad,
            tensor.grad,
        )
    return seen


@pytest.mark.parametrize("methods", METHODS)
def test_it_leaves_no_trace(tmp_path, methods):
    network = Noisy().train()
    prepared = PreparedModule(network, METHODS[methods]())
    before, random_before, state = everything_of(network), random_states(), ProcessState.now().settings
    export = CoreMLExport(tmp_path / "net.mlpackage", tolerance=Tolerance(0.5))
    rehearse(prepared, export, (torch.rand(1, 3, 8, 8, generator=torch.Generator()),))
    assert everything_of(network) == before
    assert random_states() == random_before
    assert ProcessState.now().settings == state
    assert not list(tmp_path.iterdir())


def random_states() -> list[Any]:
    """What the generators would draw next, without drawing it from them."""
    with isolate_rng():
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]
