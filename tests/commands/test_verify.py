"""`lightning-compress verify`, on packages of both recipes and of a saved module."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from lightning_compress import CoreMLExport
from lightning_compress.cli import main
from lightning_compress.commands import verify
from lightning_compress.commands.train import TrainingJob
from lightning_compress.coreml import ImageInput, palettize_package
from lightning_compress.errors import ConfigurationError, DataError, PackageError, VerificationError
from lightning_compress.package import inspect, save_package

COMPRESSIONS = [
    "none",
    "palettize_4bit",
    "palettize_2bit",
    "prune_75",
    "quantize_w8",
    "quantize_w8a8",
    "prune_50_palettize_4bit",
]
SHORT = {
    "resnet50": ["data.image_size=32"],
    "ssd_resnet18": ["data.image_size=300", "data.train_images=16", "data.val_images=4", "data.batch_size=4"],
}


class Saved(nn.Module):
    """A network that is saved whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with a program, its package, and digits as images and as arrays."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    network = Saved().eval()
    torch.export.save(torch.export.export(network, (torch.rand(1, 1, 8, 8),)), folder / "net.pt2")
    CoreMLExport(
        folder / "image.mlpackage", image=ImageInput(scale=1 / 16, bias=-0.5, color_layout="GRAYSCALE")
    ).run(network, torch.rand(1, 1, 8, 8))
    CoreMLExport(folder / "array.mlpackage").run(network, torch.rand(1, 1, 8, 8))
    digits = load_digits().images.astype(np.float32)
    np.savez(folder / "digits.npz", input=digits[:20, None] / 16)
    (folder / "images").mkdir()
    for index in range(3):
        Image.fromarray((digits[index] * 15).astype(np.uint8)).save(folder / "images" / f"{index}.png")
    return folder


def result(config, tmp_path) -> dict:
    config.json = str(tmp_path / "result.json")
    verify.run(config)
    return json.loads((tmp_path / "result.json").read_text())


@pytest.mark.parametrize(
    ("package", "inputs", "samples"),
    [
        ("image", None, 4),
        ("image", "images", 3),
        ("array", None, 2),
        ("array", "digits.npz", 16),
    ],
)
def test_a_package_of_a_saved_module_passes(configure, saved, tmp_path, package, inputs, samples):
    config = configure(
        f"package={saved}/{package}.mlpackage", f"checkpoint={saved}/net.pt2", command="verify"
    )
    config.inputs = None if inputs is None else str(saved / inputs)
    found = result(config, tmp_path)
    assert found["passed"]
    assert found["metric"] is None
    (run,) = found["runs"]
    assert run["samples"] == samples
    (output,) = run["outputs"]
    assert output["name"] == "output"
    assert 0 < output["relative"] < 5e-3


def test_another_packages_difference_is_printed_written_and_raised(configure, saved, tmp_path, capsys):
    small = save_package(
        palettize_package(saved / "array.mlpackage", [1], weight_threshold=50)[1], tmp_path / "s.mlpackage"
    )
    config = configure(f"package={small}", f"checkpoint={saved}/net.pt2", command="verify")
    with pytest.raises(VerificationError, match="'output' differs by"):
        result(config, tmp_path)
    assert not json.loads((tmp_path / "result.json").read_text())["passed"]
    assert "differs" in capsys.readouterr().out


@pytest.mark.parametrize(("package", "status"), [("array", None), ("none", 1)])
def test_the_exit_status_tells_a_script(saved, monkeypatch, tmp_path, package, status):
    monkeypatch.chdir(tmp_path)
    words = ["verify", f"package={saved}/{package}.mlpackage", f"checkpoint={saved}/net.pt2"]
    if status is None:
        main(words)
    else:
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == status


def trained(configure, recipe: str, compression: str, folder: Path, *overrides: str):
    """A few steps of both fits, with checkpoints."""
    config = configure(
        f"recipe={recipe}",
        f"compression={compression}",
        *SHORT[recipe],
        "+float_fit.trainer.limit_train_batches=2",
        "++float_fit.trainer.max_epochs=1",
        "++float_fit.trainer.max_steps=-1",
        "+compressed_fit.trainer.limit_train_batches=4",
        "++compressed_fit.trainer.max_epochs=1",
        "++compressed_fit.trainer.max_steps=-1",
        "trainer.limit_val_batches=0",
        "trainer.accelerator=cpu",
        "callbacks.progress_bar=null",
        "callbacks.learning_rate=null",
        "trainer.log_every_n_steps=1",
        "post_training_bits=[]",
        "pictures.count=0",
        *overrides,
    )
    TrainingJob(config, folder).run()
    name, fit = ("float16", "float_fit") if compression == "none" else (compression, "compressed_fit")
    return folder / f"{name}.mlpackage", next((folder / fit).rglob("*.ckpt"))


def verified(
    configure, recipe: str, package: Path, checkpoint: Path, tmp_path: Path, *overrides: str
) -> dict:
    config = configure(
        f"recipe={recipe}",
        *SHORT[recipe],
        f"package='{package}'",
        f"checkpoint='{checkpoint}'",
        "samples=4",
        *overrides,
        command="verify",
    )
    return result(config, tmp_path)


def check(found: dict, recipe: str, compression: str, image_size: int = 300) -> None:
    assert found["passed"]
    assert abs(found["metric"]["module"] - found["metric"]["package"]) <= 0.001
    outputs = {output["name"]: output for output in found["runs"][0]["outputs"]}
    if recipe == "ssd_resnet18" and compression != "quantize_w8a8":
        coordinates = outputs["coordinates"]
        assert coordinates["pixels"] == pytest.approx(1 / image_size)
        assert coordinates["largest"] <= coordinates["pixels"]


@pytest.mark.slow
def test_a_recipes_package_passes_with_its_metric(configure, tmp_path):
    small = "data.image_size=64"
    package, checkpoint = trained(configure, "ssd_resnet18", "none", tmp_path, small)
    found = verified(configure, "ssd_resnet18", package, checkpoint, tmp_path, small)
    check(found, "ssd_resnet18", "none", 64)
    report = inspect(package)
    assert report.labels == ("digit",)
    assert json.loads(report.user_metadata["metrics"]).keys() == {"map"}
    training = json.loads(report.user_metadata["training"])
    assert training["compression"]["name"] == "none"
    assert training["data"]["image_size"] == 64
    assert "## Metrics" in package.with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(SHORT))
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_package_of_the_recipes_passes(configure, tmp_path, recipe, compression):
    package, checkpoint = trained(configure, recipe, compression, tmp_path)
    # After a few steps many images lie on the edge between two classes, and boxes are far from settled: the bounds for
    # trained networks are shown by tests/benchmarks/verify_recipes.py.
    hardly_trained = [
        "metric_tolerance=0.02",
        "+export.tolerance._target_=lightning_compress.coreml.tolerance.Tolerance",
        "++export.tolerance.relative=0.2",
        "+export.tolerance.absolute.coordinates=0.02",
    ]
    if compression == "quantize_w8a8":
        hardly_trained = ["metric_tolerance=0.1"]
    found = verified(configure, recipe, package, checkpoint, tmp_path, *hardly_trained)
    assert found["passed"]


class TestMistakes:
    def test_nothing_to_compare_with(self, configure, saved):
        config = configure(f"package={saved}/array.mlpackage", command="verify")
        with pytest.raises(ConfigurationError, match=r"give recipe=\.\.\. with checkpoint"):
            verify.run(config)

    def test_a_recipe_without_weights(self, configure, saved):
        config = configure("recipe=resnet50", f"package={saved}/array.mlpackage", command="verify")
        with pytest.raises(ConfigurationError, match="checkpoint is empty"):
            verify.run(config)

    def test_a_checkpoint_that_is_missing(self, configure, saved):
        config = configure(
            f"package={saved}/array.mlpackage", f"checkpoint={saved}/none.pt2", command="verify"
        )
        with pytest.raises(ConfigurationError, match=r"none\.pt2' is no file"):
            verify.run(config)

    def test_a_checkpoint_of_something_else(self, configure, saved):
        config = configure(
            f"package={saved}/array.mlpackage", f"checkpoint={saved}/digits.npz", command="verify"
        )
        with pytest.raises(ConfigurationError, match=r"neither a TorchScript archive nor a \.pt2"):
            verify.run(config)

    def test_a_package_that_is_missing(self, configure, saved):
        config = configure("package=none.mlpackage", f"checkpoint={saved}/net.pt2", command="verify")
        with pytest.raises(PackageError, match=r"none\.mlpackage"):
            verify.run(config)

    def test_an_unknown_precision(self, configure, saved):
        config = configure(f"package={saved}/array.mlpackage", "precision=int8", command="verify")
        with pytest.raises(ConfigurationError, match="precision='int8' is unknown"):
            verify.run(config)

    @pytest.mark.parametrize(
        ("package", "inputs", "message"),
        [
            ("array", "images", "cannot be used: the package takes an array"),
            ("image", "nowhere", "holds no images"),
            ("image", "digits.npz", "has no array image; it has input"),
        ],
    )
    def test_inputs_that_the_package_does_not_take(self, configure, saved, package, inputs, message):
        config = configure(
            f"package={saved}/{package}.mlpackage",
            f"checkpoint={saved}/net.pt2",
            f"inputs={saved}/{inputs}",
            command="verify",
        )
        with pytest.raises(DataError, match=message):
            verify.run(config)
