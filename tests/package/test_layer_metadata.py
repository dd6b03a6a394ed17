"""A layer has one name, and its reason to stay dense, from the training table to the package."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from lightning_compress import Compression, CoreMLExport, DKMPalettization
from lightning_compress.coreml import ImageInput, palettize_package
from lightning_compress.coreml.card import model_card
from lightning_compress.methods.mechanism.summary import summary_table
from lightning_compress.package import inspect, render
from lightning_compress.package.layer_metadata import LAYERS, LayerMetadata, read_layer_metadata


class Wrapper(nn.Module):
    """Holds a copy of the network, as wrappers may."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 64))
        self.inner = copy.deepcopy(network)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.inner(pixels * self.scale)


def text_of(renderable: object) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def test_training_table_card_and_inspection_say_the_same_of_a_layer(
    digit_module, digit_data, make_trainer, tmp_path
):
    compression = Compression(
        DKMPalettization(n_bits=2, module_name_configs={"head": None}),
        module="model",
        export=CoreMLExport(tmp_path / "net.mlpackage"),
    )
    make_trainer(compression, max_epochs=1, limit_train_batches=2).fit(digit_module, datamodule=digit_data)
    report = compression.exported.report
    names = {layer.name: layer for layer in report.layers if len(layer.shape) > 1}
    assert set(names) == {layer.name for layer in compression.layers}
    assert "features.3.weight" in names
    reason = "excluded by module_name_configs['head']"
    assert names["head.weight"].dense_reason == reason
    assert names["features.3.weight"].dense_reason == ""
    for text in (text_of(summary_table(compression.layers)), text_of(render(report)), model_card(report)):
        assert "features.3.weight" in text
        assert f"dense: {reason}" in text
        assert LAYERS not in text


def parts(network: nn.Module) -> nn.Module:
    """A wrapper that takes the network apart."""
    return nn.Sequential(network[0], nn.Sequential(network[1], network[2]))


@pytest.mark.parametrize("wrapper", [None, nn.Sequential, Wrapper, parts])
def test_a_name_is_that_in_the_module_whatever_is_wrapped_around_it(wrapper, tmp_path):
    network = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)).eval()
    report = CoreMLExport(tmp_path / "net.mlpackage", wrapper=wrapper).run(network, torch.zeros(1, 64)).report
    assert {"0.weight", "2.weight"} <= {layer.name for layer in report.layers}


def test_a_name_survives_scales_of_an_image_that_go_into_the_program(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    export = CoreMLExport(tmp_path / "net.mlpackage", image=ImageInput(scale=(0.1, 0.2, 0.3)))
    assert "0.weight" in {
        layer.name for layer in export.run(network, torch.zeros(1, 3, 16, 16)).report.layers
    }


def test_palettizing_after_training_says_what_is_too_small(tmp_path):
    network = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)).eval()
    CoreMLExport(tmp_path / "net.mlpackage").run(network, torch.zeros(1, 64))
    layers = {
        layer.name: layer for layer in inspect(palettize_package(tmp_path / "net.mlpackage", [2])[2]).layers
    }
    assert layers["0.weight"].technique == "palettized"
    assert layers["2.weight"].dense_reason == "no more than 2,048 weights"


@pytest.mark.parametrize(
    "text", ["", "[", "[1]", "7", '{"names": 3}', '{"names": [1], "renamed": {"a": 1}}', "[" * 100_000]
)
def test_metadata_of_others_are_no_error(text):
    assert read_layer_metadata({LAYERS: text}) == LayerMetadata()


def test_what_a_terminal_would_obey_is_taken_out():
    metadata = read_layer_metadata({LAYERS: '{"names": [], "dense": {"a.b": "\\u001b[31m[red]\\n<b>"}}'})
    assert metadata == LayerMetadata({}, {"a.b": "[red] <b>"})


def test_what_is_written_is_read():
    metadata = LayerMetadata({"a_b": "a.b"}, {"a.b": "too small"})
    assert read_layer_metadata({LAYERS: metadata.as_text()}) == metadata
    assert (metadata.name("a_b"), metadata.name("module_a_b")) == ("a.b", "a.b")
    assert (metadata.name("c"), metadata.name("module_c")) == ("c", "c")


@given(
    st.dictionaries(
        st.sampled_from(["a_b", "module_a_b", "module_module_a_b", "c", "x_c", "module_d"]),
        st.sampled_from(["a.b", "c", "d.e", "module.a.b"]),
    )
)
def test_every_name_is_read_as_it_was_written(names):
    written = LayerMetadata(names)
    read = read_layer_metadata({LAYERS: written.as_text()})
    assert {key: read.name(key) for key in names} == names


def test_names_that_follow_from_one_another_are_written_once():
    text = LayerMetadata({"module_network_0_weight": "network.0.weight"}).as_text()
    assert text == '{"names":["network.0.weight"],"renamed":{},"dense":{}}'
