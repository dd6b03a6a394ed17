"""Packages of several functions: each by its name, and what is shared counted once."""

from __future__ import annotations

import coremltools as ct
import pytest
import torch
from coremltools.models.utils import MultiFunctionDescriptor, save_multifunction
from torch import nn

from lightning_compress import runtime
from lightning_compress.coreml import model_card, palettize_package
from lightning_compress.coreml.convert import convert
from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.errors import PackageError
from lightning_compress.package.inspection import inspect
from lightning_compress.package.save import save_package


def network(*, negative: bool) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(16, 32), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.Softmax(-1)] if negative else [])).eval()


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("functions")
    descriptor = MultiFunctionDescriptor()
    for name, negative in (("raw", False), ("probabilities", True)):
        model = convert(network(negative=negative), torch.rand(1, 16), target=ct.target.iOS18)
        descriptor.add_function(str(save_package(model, folder / f"{name}.mlpackage")), "main", name)
    descriptor.default_function_name = "probabilities"
    path = folder / "both.mlpackage"
    with quiet_conversion():
        save_multifunction(descriptor, str(path))
    return path


@pytest.mark.parametrize(("function", "negative"), [(None, True), ("probabilities", True), ("raw", False)])
def test_each_function_is_loaded_by_its_name_and_the_default_one_without(package, function, negative):
    x = torch.rand(2, 16)
    with torch.no_grad():
        expected = network(negative=negative)(x)
    (found,) = runtime.load(package, function=function)(x).values()
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


def test_a_wrong_name_lists_the_right_ones(package):
    message = (
        r"no function 'rwa'; did you mean 'raw'\? Its functions: 'probabilities', 'raw', the first by default"
    )
    with pytest.raises(PackageError, match=message):
        runtime.load(package, function="rwa")


def test_a_package_of_one_function_calls_it_main(package):
    single = package.with_name("raw.mlpackage")
    assert [function.name for function in inspect(single).functions] == ["main"]
    runtime.load(single, function="main")
    with pytest.raises(PackageError, match=r"no function 'raw'\. Its functions: 'main'"):
        runtime.load(single, function="raw")


def test_a_report_names_the_functions_and_counts_what_they_share_once(package):
    report = inspect(package)
    single = inspect(package.with_name("raw.mlpackage"))
    assert [function.name for function in report.functions] == ["probabilities", "raw"]
    assert [function.inputs[0].name for function in report.functions] == ["input", "input"]
    assert report.inputs == report.functions[0].inputs
    assert report.layers == single.layers
    assert report.weight_bytes == single.weight_bytes
    assert "## Inputs and outputs of `raw`" in model_card(report)


def test_every_function_is_palettized_and_runs(package, tmp_path):
    path = save_package(palettize_package(package, [8], weight_threshold=16)[8], tmp_path / "small.mlpackage")
    image = torch.rand(inspect(package).inputs[0].shape)
    for function in ("probabilities", "raw"):
        (expected,) = runtime.load(package, function=function)(input=image).values()
        (found,) = runtime.load(path, function=function)(input=image).values()
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
