"""A package is compressed after training in every form that its target can hold, and computes about the same."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.models.utils import MultiFunctionDescriptor, save_multifunction
from torch import nn

from lightning_compress.coreml import CoreMLExport
from lightning_compress.coreml.convert import convert
from lightning_compress.coreml.post_training import PostTrainingForm, compress_package
from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.errors import ConfigurationError, PackageError, TargetError, WeightError
from lightning_compress.package.inspection import decompressed_weights, inspect
from lightning_compress.package.save import save_package
from lightning_compress.runtime import load

FORMS = {
    "prune": (PostTrainingForm(prune=0.75), "pruned", "iOS16"),
    "palettize": (PostTrainingForm(palettize=4), "palettized", "iOS16"),
    "int8": (PostTrainingForm(quantize="int8"), "quantized", "iOS16"),
    "3 bits": (PostTrainingForm(palettize=3), "palettized", "iOS18"),
    "groups": (PostTrainingForm(palettize=4, group_size=16), "palettized", "iOS18"),
    "vectors": (PostTrainingForm(palettize=6, cluster_dim=2), "palettized", "iOS18"),
    "vectors of groups with int8 entries": (
        PostTrainingForm(palettize=4, cluster_dim=2, group_size=16, quantize="int8"),
        "palettized + quantized",
        "iOS18",
    ),
    "int8 entries": (PostTrainingForm(palettize=4, quantize="int8"), "palettized + quantized", "iOS18"),
    "int4": (PostTrainingForm(quantize="int4"), "quantized", "iOS18"),
    "int4 in blocks": (PostTrainingForm(quantize="int4", block_size=16), "quantized", "iOS18"),
    "prune and palettize": (PostTrainingForm(prune=0.5, palettize=4), "pruned + palettized", "iOS18"),
    "prune, groups": (
        PostTrainingForm(prune=0.5, palettize=4, group_size=16),
        "pruned + palettized",
        "iOS18",
    ),
    "prune and int8": (PostTrainingForm(prune=0.5, quantize="int8"), "pruned + quantized", "iOS18"),
    "all three": (
        PostTrainingForm(prune=0.5, palettize=4, quantize="int8"),
        "pruned + palettized + quantized",
        "iOS18",
    ),
}


@pytest.fixture(scope="module")
def packages(build_network, digit, tmp_path_factory):
    """A package for iOS16 and one for iOS18, of one network."""
    folder = tmp_path_factory.mktemp("float16")
    return {
        target: CoreMLExport(folder / f"{target}.mlpackage", minimum_deployment_target=target)
        .run(build_network(), digit)
        .path
        for target in ("iOS16", "iOS18")
    }


@pytest.mark.parametrize("name", FORMS)
def test_every_large_weight_is_stored_as_asked_and_the_outputs_stay_near(name, packages, digits, tmp_path):
    form, technique, target = FORMS[name]
    (compressed,) = compress_package(packages[target], [form])
    path = save_package(compressed.model, tmp_path / "net.mlpackage")
    dense, values = decompressed_weights(packages[target]), decompressed_weights(path)
    layers = {layer.name: layer for layer in inspect(path).layers}
    assert [layer.technique for layer in layers.values() if layer.parameters > 2048] == [technique] * 2
    assert len(compressed.compressed) == 2
    for layer_name, layer in layers.items():
        if layer.parameters <= 2048:
            np.testing.assert_array_equal(values[layer_name], dense[layer_name])
            continue
        if form.prune is not None:
            assert layer.sparsity == pytest.approx(form.prune, abs=1e-3)
        error = np.linalg.norm(values[layer_name].astype(np.float32) - dense[layer_name]) / np.linalg.norm(
            dense[layer_name].astype(np.float32)
        )
        assert error < (0.75 if form.prune == 0.75 else 0.45 if form.prune else 0.25)
    expected = load(packages[target])(input=digits[:1])["output"]
    found = load(path)(input=digits[:1])["output"]
    assert (found - expected).abs().max() < 0.3 * expected.abs().max()


def test_what_stays_dense_is_told_with_its_reason(packages):
    (compressed,) = compress_package(
        packages["iOS18"], [PostTrainingForm(palettize=4, group_size=48)], weight_threshold=500
    )
    assert all(
        "48 does not divide its 64 output channels" in reason
        for reason in list(compressed.dense.values())[1:3]
    )
    assert "no more than 500 weights" in next(iter(compressed.dense.values()))
    assert compressed.compressed == ()


def test_several_forms_come_from_one_reading(packages):
    forms = [PostTrainingForm(palettize=bits) for bits in (6, 2)]
    found = compress_package(packages["iOS16"], forms)
    assert [entry.form for entry in found] == forms
    assert [
        {layer.bits for layer in inspect(entry.model).layers if layer.parameters > 2048} for entry in found
    ] == [
        {6},
        {2},
    ]


@pytest.mark.parametrize("target", ["iOS15", "iOS16", "iOS17"])
def test_a_package_is_raised_to_the_target_that_a_form_needs(target, network, digit, digits, tmp_path):
    model = convert(network, digit, target=ct.target[target])
    form = PostTrainingForm(prune=0.5, palettize=4)
    with pytest.raises(
        TargetError, match=r"cannot carry .*more than one compression.*minimum_deployment_target='iOS18'"
    ):
        compress_package(model, [form])
    (compressed,) = compress_package(model, [form], minimum_deployment_target="iOS18")
    path = save_package(compressed.model, tmp_path / "net.mlpackage")
    assert inspect(path).target == "iOS18 / macOS15"
    expected = load(save_package(model, tmp_path / "float.mlpackage"))(input=digits[:1])["output"]
    found = load(path)(input=digits[:1])["output"]
    assert (found - expected).abs().max() < 0.3 * expected.abs().max()


def test_a_package_is_not_lowered(packages):
    with pytest.raises(TargetError, match="lower than what the package is for, iOS18"):
        compress_package(
            packages["iOS18"], [PostTrainingForm(palettize=4)], minimum_deployment_target="iOS16"
        )


def test_a_float32_package_is_compressed_too(network, digit, digits, tmp_path):
    model = convert(network, digit, target=ct.target.iOS16, compute_precision="float32")
    (compressed,) = compress_package(model, [PostTrainingForm(palettize=8)])
    path = save_package(compressed.model, tmp_path / "net.mlpackage")
    with torch.no_grad():
        expected = network(digits[:1])
    torch.testing.assert_close(load(path)(input=digits[:1])["output"], expected, atol=5e-3, rtol=0)


def test_what_is_compressed_already_stays_as_it_is(packages):
    (first,) = compress_package(packages["iOS18"], [PostTrainingForm(palettize=2)])
    with pytest.raises(PackageError, match="holds no dense weight.*compressed already are 2 palettized"):
        compress_package(first.model, [PostTrainingForm(quantize="int8")])


# coremltools leaves the folder of its merged weights to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_function_of_a_package_is_compressed_and_kept(tmp_path, digit):
    class Adapted(nn.Module):
        def __init__(self, adapter: float) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.layer = nn.Linear(64, 64)
            self.adapter = adapter

        def forward(self, x):
            return self.layer(x.flatten(1)) * self.adapter

    descriptor = MultiFunctionDescriptor()
    for name, adapter in (("plain", 1.0), ("loud", 3.0)):
        path = save_package(
            convert(Adapted(adapter).eval(), digit, target=ct.target.iOS18), tmp_path / f"{name}.mlpackage"
        )
        descriptor.add_function(str(path), src_function_name="main", target_function_name=name)
    descriptor.default_function_name = "plain"
    save_multifunction(descriptor, str(tmp_path / "both.mlpackage"))
    (compressed,) = compress_package(tmp_path / "both.mlpackage", [PostTrainingForm(palettize=4)])
    path = save_package(compressed.model, tmp_path / "small.mlpackage")
    specification = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    assert set(specification.mlProgram.functions) == {"plain", "loud"}
    assert specification.description.defaultFunctionName == "plain"
    # The weight that both share is stored once.
    (weights,) = path.rglob("weight.bin")
    assert weights.stat().st_size < 64 * 64


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_named(value, network, digit):
    with torch.no_grad():
        network[3].weight[0] = value
    with quiet_conversion():
        model = ct.convert(
            torch.jit.trace(network, digit, check_trace=False),
            inputs=[ct.TensorType(name="input", shape=digit.shape)],
            minimum_deployment_target=ct.target.iOS16,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
    with pytest.raises(WeightError, match=r"NaN or infinit"):
        compress_package(model, [PostTrainingForm(palettize=4)])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "nothing is asked for"),
        ({"prune": 1.0}, r"prune=1.0 is no share between 0 and 1"),
        ({"prune": 75}, r"prune=75 is no share"),
        ({"prune": True}, r"prune=True is no share"),
        ({"palettize": 5}, r"palettize=5 is no width of a palette index; valid are \(1, 2, 3, 4, 6, 8\)"),
        ({"quantize": "int3"}, "quantize='int3' is unknown; valid are int8, int4"),
        ({"quantize": "int4", "palettize": 4}, "cannot be joined with palettize"),
        ({"prune": 0.5, "group_size": 8}, "group_size=8 says something of palettize"),
        ({"palettize": 4, "block_size": 8}, "block_size=8 says something of quantize"),
        ({"palettize": 4, "group_size": 0}, "group_size=0 is no positive whole number"),
    ],
)
def test_a_form_that_cannot_be_is_refused(keys, message):
    with pytest.raises(ConfigurationError, match=message):
        PostTrainingForm(**keys)


def test_no_form_at_all_is_refused(packages):
    with pytest.raises(ConfigurationError, match="forms is empty"):
        compress_package(packages["iOS16"], [])
