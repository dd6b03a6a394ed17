"""`lightning-compress compress`: any package made smaller, with what that changes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from lightning_compress.command_line.composing import compose_command
from lightning_compress.commands.compress import run
from lightning_compress.coreml import CoreMLExport, ImageInput
from lightning_compress.errors import ConfigurationError, DataError, PackageError, TargetError
from lightning_compress.package.inspection import inspect


class Segmenter(nn.Module):
    """Says the class of each pixel, and how sure it is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 4, 1),
        )

    def forward(self, image):
        scores = self.layers(image).softmax(1)
        return scores, scores.argmax(1)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    export = CoreMLExport(
        tmp_path_factory.mktemp("original") / "net.mlpackage",
        image=ImageInput(scale=1 / 255),
        output_names=["scores", "classes"],
        minimum_deployment_target="iOS18",
        description="Says the class of each pixel.",
        card=False,
    )
    return export.run(Segmenter().eval(), torch.zeros(1, 3, 16, 16)).path


def compress(package, *words: str, **own):
    config = compose_command("compress", [f"package={package}", *words]).config
    return run(OmegaConf.merge(config, own))


def test_a_package_is_made_for_each_width_and_compared_with_the_original(package, tmp_path, capsys):
    found = compress(package, "palettize=[8,2]", f"output={tmp_path}", f"json={tmp_path / 'out.json'}")
    assert [smaller.name for smaller in found] == ["palettize_8bit", "palettize_2bit"]
    assert sorted(path.name for path in tmp_path.glob("*.mlpackage")) == [
        "net.palettize_2bit.mlpackage",
        "net.palettize_8bit.mlpackage",
    ]
    eight, two = ({output.name: output for output in smaller.outputs} for smaller in found)
    assert eight["scores"].mean < two["scores"].mean
    assert eight["classes"].mean <= two["classes"].mean < 1
    printed = capsys.readouterr().out
    assert "palettize_2bit" in printed
    assert "are others" in printed
    assert "dense: no more than 2,048 weights" in printed
    written = json.loads((tmp_path / "out.json").read_text())
    assert [entry["name"] for entry in written["compressed"]] == ["palettize_8bit", "palettize_2bit"]
    assert inspect(tmp_path / "net.palettize_2bit.mlpackage").description == "Says the class of each pixel."


def test_lists_of_two_keys_make_every_combination(package, tmp_path):
    found = compress(package, "prune=[0.5,0.75]", "palettize=[4,2]", f"output={tmp_path}")
    assert [smaller.name for smaller in found] == [
        "prune_50_palettize_4bit",
        "prune_50_palettize_2bit",
        "prune_75_palettize_4bit",
        "prune_75_palettize_2bit",
    ]


def test_what_both_are_run_on_can_be_given(package, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "images.npz", image=images)
    (found,) = compress(package, "quantize=int8", f"output={tmp_path}", f"inputs={tmp_path / 'images.npz'}")
    assert found.outputs[0].largest < 0.05


def test_coremltools_own_configuration_is_followed(package, tmp_path):
    (tmp_path / "zeros.yaml").write_text(
        "config_type: OpMagnitudePrunerConfig\nglobal_config: {target_sparsity: 0.5}\n"
    )
    (tmp_path / "palettes.yaml").write_text(
        "config_type: OpPalettizerConfig\nglobal_config: {mode: kmeans, nbits: 4}\n"
    )
    files = [str(tmp_path / name) for name in ("zeros.yaml", "palettes.yaml")]
    (found,) = compress(package, f"output={tmp_path}", configuration=files)
    assert "pruned + palettized" in {layer.technique for layer in found.report.layers}
    with pytest.raises(ConfigurationError, match="prune and configuration are both given"):
        compress(package, "prune=0.5", configuration=files)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ([], ConfigurationError, "nothing is asked for"),
        (["palettize=5"], ConfigurationError, "palettize=5 is no width"),
        (["prune=75"], ConfigurationError, "prune=75 is no share"),
        (["palettize=4", "weight_threshold=1000000"], PackageError, "holds no dense weight"),
        (
            ["palettize=4", "minimum_deployment_target=iOS16"],
            TargetError,
            "lower than what the package is for",
        ),
        (["palettize=4", "inputs=nowhere"], DataError, "nowhere"),
        (["palettize=4", "precision=float8"], ConfigurationError, "precision='float8' is unknown"),
        (["palettize=4", "output=/proc/none"], ConfigurationError, "/proc/none"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(words, error, message, package):
    before = sorted(package.parent.iterdir())
    with pytest.raises(error, match=message):
        compress(package, *words)
    assert sorted(package.parent.iterdir()) == before
