"""Names that look like markup, emoji or commands to a terminal are shown as they are, and hinder nothing."""

from __future__ import annotations

from typing import Any

import pytest
import rich
import torch
from rich.console import Console
from torch import Tensor, nn

from lightning_compress import Compression, CoreMLExport, DKMPalettization, MagnitudePruning, runtime
from lightning_compress.coreml import softmax_outputs
from lightning_compress.coreml.verification import verification_table
from lightning_compress.package import inspect
from lightning_compress.package.rendering import render

NAMES = ["[/x]", "[red]", "[bold]b", ":smile:", "\x1b[31mred", "[link=http://x]y"]


class Odd(nn.Module):
    """Layers of odd names."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Linear(64, 64))

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.name)(x.flatten(1))


@pytest.fixture
def fit(digit_module, digit_data, make_trainer) -> Any:
    def run(name: str, compression: Compression) -> Compression:
        digit_module.model = Odd(name)
        make_trainer(compression, max_epochs=1).fit(digit_module, datamodule=digit_data)
        return compression

    return run


def shown(name: str) -> str:
    return name.replace("\x1b[31m", "")


@pytest.mark.parametrize("name", NAMES)
def test_of_modules(fit, capsys, name):
    compression = fit(name, Compression(DKMPalettization(n_bits=4), MagnitudePruning(), module="model"))
    rich.print(compression.report())
    printed = capsys.readouterr().out
    assert printed.count(shown(name)) >= 3
    assert "\x1b" not in printed


@pytest.mark.parametrize("name", NAMES)
def test_of_folders_labels_descriptions_and_metadata(
    digit_module, digit_data, make_trainer, tmp_path, capsys, name
):
    # A slash parts folders.
    folder = tmp_path / name.replace("/", "")
    export = CoreMLExport(
        folder / "net.mlpackage",
        class_labels=[name, *map(str, range(1, 10))],
        wrapper=softmax_outputs,
        description=name,
        input_descriptions={"input": name},
        user_metadata={name: name},
    )
    compression = Compression(DKMPalettization(n_bits=4), module="model", export=export)
    make_trainer(compression, max_epochs=1).fit(digit_module, datamodule=digit_data)
    verification = export.compare(export.path, compression.finalized, torch.zeros(1, 1, 8, 8))
    rich.print(verification_table(verification))
    rich.print(render(inspect(export.path)))
    printed = capsys.readouterr().out
    assert shown(name) in printed
    assert "\x1b" not in printed
    assert runtime.load(export.path).class_labels[0] == name
    assert (folder / "net.md").is_file()


def test_of_packages_in_the_title_of_a_verification(digit_network, tmp_path):
    package = tmp_path / "[red]net.mlpackage"
    export = CoreMLExport(package)
    export.run(digit_network.eval(), torch.rand(1, 1, 8, 8))
    console = Console(width=200, record=True)
    console.print(verification_table(export.compare(package, digit_network, torch.rand(1, 1, 8, 8))))
    assert "[red]net.mlpackage" in console.export_text()
