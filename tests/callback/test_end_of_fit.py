"""Nothing stands between training and the package."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from torch import Tensor, nn

import lightning_compress.callback.compression as callback_module
from lightning_compress import Compression, CoreMLExport, DKMPalettization, LinearQuantization, runtime
from lightning_compress.callback.plain_loading import load_plainly
from lightning_compress.errors import VerificationError
from lightning_compress.package.targets import Capability
from tests.conftest import DigitModule, DigitNetwork
from tests.training import Training

HYPERPARAMETERS = {
    "a path": Path("data"),
    "a configuration": OmegaConf.create({"optimizer": {"lr": 0.1}}),
    "a scalar of numpy": np.float32(0.1),
    "an object": SimpleNamespace(width=3),
    "a class": SimpleNamespace,
}


class WithHyperparameters(DigitModule):
    """Keeps whatever it is given in its checkpoints."""

    def __init__(self, given: object) -> None:
        super().__init__()
        self.save_hyperparameters()


@pytest.mark.parametrize("kind", HYPERPARAMETERS)
def test_hyperparameters_of_any_type_do_not_end_a_fit(tmp_path, digit_data, make_trainer, kind):
    best = ModelCheckpoint(tmp_path, monitor="accuracy", mode="max", save_on_train_epoch_end=False)
    compression = Compression(
        DKMPalettization(n_bits=2), export=CoreMLExport(tmp_path / "net.mlpackage"), rehearse=False
    )
    module = WithHyperparameters(HYPERPARAMETERS[kind])
    make_trainer(compression, best, enable_checkpointing=True, max_epochs=1).fit(
        module, datamodule=digit_data
    )
    assert compression.exported.path.is_dir()
    # What the warning reads of the checkpoint, without running code of it.
    assert "state_dict" in load_plainly(best.best_model_path)
    restored = Compression.load_from_checkpoint(best.best_model_path, DigitModule())
    assert torch.isfinite(restored.finalize()(torch.rand(1, 1, 8, 8))).all()


@pytest.mark.parametrize("broken", ["print_layers", "warn_of_incomplete_best"])
def test_a_report_that_fails_is_a_warning_and_the_package_is_there(
    tmp_path, digit_module, digit_data, make_trainer, monkeypatch, broken
):
    def fail(*arguments: object) -> None:
        raise RuntimeError("the terminal is gone")

    monkeypatch.setattr(callback_module, broken, fail)
    compression = Compression(export=CoreMLExport(tmp_path / "net.mlpackage"), rehearse=False)
    with pytest.warns(UserWarning, match="is left out: RuntimeError: the terminal is gone"):
        make_trainer(compression, max_epochs=1).fit(digit_module, datamodule=digit_data)
    assert runtime.load(compression.exported.path) is not None


def test_a_card_that_cannot_be_written_is_a_warning(tmp_path, digit_module, digit_data, make_trainer):
    (tmp_path / "net.md").mkdir()
    compression = Compression(export=CoreMLExport(tmp_path / "net.mlpackage"), rehearse=False)
    with pytest.warns(UserWarning, match="the model card is left out"):
        make_trainer(compression, max_epochs=1).fit(digit_module, datamodule=digit_data)
    assert compression.exported.path.is_dir()


class Growing(DigitNetwork):
    """Leaves the range of half precision once it is trained."""

    shift = 0.0

    def forward(self, images: Tensor) -> Tensor:
        return (super().forward(images) + self.shift) ** 2


def test_a_package_that_differs_is_still_an_error(tmp_path, digit_module, digit_data, make_trainer):
    def grow() -> None:
        digit_module.model.shift = 300.0

    digit_module.model = Growing()
    digit_module.on_train_end = grow
    compression = Compression(export=CoreMLExport(tmp_path / "net.mlpackage"))
    with pytest.raises(VerificationError, match="differs by"):
        make_trainer(compression, max_epochs=1).fit(digit_module, datamodule=digit_data)
    assert not (tmp_path / "net.mlpackage").exists()


class Remembering(DigitNetwork):
    """Keeps results of its forward pass wherever one can."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, object] = {}
        self.generator = torch.Generator()
        self.features[0].register_forward_hook(self.remember)

    def remember(self, module: nn.Module, arguments: object, output: Tensor) -> None:
        self.kept["hooked"] = [output, (output * 2,)]

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        self.auxiliary = logits.mean()
        return logits


def test_a_module_that_keeps_tensors_of_its_forward_is_finalized_everywhere(
    tmp_path, digit_module, digit_data, make_trainer
):
    digit_module.model = Remembering()
    compression = Compression(
        DKMPalettization(n_bits=2),
        LinearQuantization(weight_dtype="float32"),
        export=CoreMLExport(tmp_path / "net.mlpackage"),
    )
    trainer = make_trainer(compression, max_epochs=1)
    trainer.fit(digit_module, datamodule=digit_data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert compression.exported.path.is_dir()
    fresh = DigitModule()
    fresh.model = Remembering()
    images = torch.rand(4, 1, 8, 8)
    fresh(images)
    restored = Compression.load_from_checkpoint(tmp_path / "last.ckpt", fresh).finalize()
    torch.testing.assert_close(restored(images), compression.finalized(images), atol=1e-4, rtol=1e-4)


class Odd(nn.Module):
    """A network whose layers have names that rich takes for its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"[red]": nn.Conv2d(1, 16, 3), "[/x]": nn.Conv2d(16, 16, 3)})

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.layers.values():
            images = layer(images)
        return images


def test_names_that_look_like_markup_are_printed_as_they_are(tmp_path, make_trainer, capsys):
    folder = tmp_path / "[bold]"
    compression = Compression(
        DKMPalettization(n_bits=2, weight_threshold=0),
        export=CoreMLExport(folder / "net.mlpackage", user_metadata={"[/key]": "[blue]"}),
    )
    training = Training(Odd(), lambda count: torch.rand(count, 1, 8, 8), steps=1)
    make_trainer(compression, max_epochs=1).fit(training)
    printed = capsys.readouterr().out
    for name in ("layers.[red].weight", "layers.[/x]", str(folder)):
        assert printed.count(name) >= 1, name


class Masks(nn.Module):
    """The likelier of four classes of each pixel."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1))
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        scores = self.layers(images)
        return scores if self.training else scores.argmax(1).to(self.dtype)


class Shifted(nn.Module):
    """Takes each class for the next."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        return (self.module(images) + 1) % 4


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_masks_are_judged_by_the_share_that_is_equal(tmp_path, make_trainer, dtype):
    export = CoreMLExport(tmp_path / "net.mlpackage", output_names=["mask"])
    compression = Compression(
        DKMPalettization(n_bits=4, weight_threshold=0),
        LinearQuantization(weight_dtype="float32"),
        export=export,
    )
    training = Training(Masks(dtype), lambda count: torch.rand(count, 1, 16, 16), steps=4)
    make_trainer(compression, max_epochs=1).fit(training)
    wrong = CoreMLExport(tmp_path / "wrong.mlpackage", output_names=["mask"], wrapper=Shifted)
    inputs, needed = (torch.rand(1, 1, 16, 16),), [Capability.INT8_ACTIVATIONS]
    package = wrong.run(compression.finalized, inputs, needed).path
    told = "'mask', which holds labels, has others in .*% of its elements"
    with pytest.raises(VerificationError, match=told):
        export.compare(package, compression.finalized, inputs, needed).require_passed()
