from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools._deps import kmeans1d

from lightning_compress import runtime
from lightning_compress.coreml import CoreMLExport, softmax_outputs
from lightning_compress.coreml.post_training import PostTrainingForm, palettize_package
from lightning_compress.coreml.post_training.tensors import DenseWeight
from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.errors import ConfigurationError, PackageError, TargetError
from lightning_compress.package.inspection import decompressed_weights, inspect
from lightning_compress.package.save import save_package

WIDTHS = [1, 2, 4, 6, 8]


@pytest.fixture(scope="module")
def package(build_network, digit, tmp_path_factory):
    return CoreMLExport(tmp_path_factory.mktemp("float16") / "net.mlpackage").run(build_network(), digit).path


@pytest.fixture(scope="module")
def palettized(package):
    return palettize_package(package, WIDTHS)


@pytest.mark.parametrize("n_bits", WIDTHS)
def test_every_large_weight_gets_a_palette_of_its_width_and_the_others_stay(palettized, package, n_bits):
    dense = decompressed_weights(package)
    report = inspect(palettized[n_bits])
    assert report.target == "iOS16 / macOS13"
    values = decompressed_weights(palettized[n_bits])
    assert list(values) == list(dense)
    for layer in report.layers:
        if layer.parameters > 2048:
            assert (layer.technique, layer.bits, layer.granularity) == ("palettized", n_bits, "per tensor")
            assert layer.distinct_values <= 2**n_bits
        else:
            assert layer.technique == "dense"
            np.testing.assert_array_equal(values[layer.name], dense[layer.name])
    assert sum(layer.technique == "palettized" for layer in report.layers) == 2


@pytest.mark.parametrize("n_bits", WIDTHS)
def test_every_weight_takes_the_nearest_entry(palettized, package, n_bits):
    dense = decompressed_weights(package)
    for name, values in decompressed_weights(palettized[n_bits]).items():
        entries = np.unique(values.astype(np.float64))
        weights = dense[name].astype(np.float64)
        nearest = np.abs(weights[..., None] - entries).min(axis=-1)
        np.testing.assert_array_equal(np.abs(weights - values.astype(np.float64)), nearest)


@pytest.mark.parametrize("n_bits", WIDTHS)
def test_the_inertia_is_within_a_thousandth_of_the_exact_optimum(palettized, package, n_bits):
    dense = decompressed_weights(package)
    for name, values in decompressed_weights(palettized[n_bits]).items():
        weights = dense[name]
        if weights.size <= 2048:
            continue
        distinct, counts = np.unique(weights, return_counts=True)
        best = np.array(kmeans1d.cluster(distinct, 2**n_bits, weights=counts).centroids).astype(np.float16)
        optimum = (counts * (distinct[:, None] - best.astype(np.float64)).__abs__().min(axis=1) ** 2).sum()
        found = ((weights.astype(np.float64) - values.astype(np.float64)) ** 2).sum()
        assert found <= 1.001 * optimum, name


def test_the_same_weights_are_palettized_as_by_coremltools(package, palettized):
    configuration = ct.optimize.coreml.OptimizationConfig(
        global_config=ct.optimize.coreml.OpPalettizerConfig(mode="uniform", nbits=4)
    )
    with quiet_conversion():
        theirs = ct.optimize.coreml.palettize_weights(
            ct.models.MLModel(str(package), skip_model_load=True), configuration
        )
    theirs, ours = inspect(theirs), inspect(palettized[4])
    assert [(layer.shape, layer.technique, layer.stored_bytes) for layer in ours.layers] == [
        (layer.shape, layer.technique, layer.stored_bytes) for layer in theirs.layers
    ]
    assert ours.operations == theirs.operations
    assert ours.weight_bytes == theirs.weight_bytes


def test_a_palettized_package_runs_and_comes_close_at_eight_bits(package, palettized, digits, tmp_path):
    path = save_package(palettized[8], tmp_path / "net.mlpackage")
    expected = runtime.load(package)(input=digits[:1])["output"]
    torch.testing.assert_close(runtime.load(path)(input=digits[:1])["output"], expected, atol=5e-3, rtol=0)


def test_the_package_itself_stays_as_it_was(package, palettized):
    assert {layer.technique for layer in inspect(package).layers} == {"dense"}


def test_three_bits_need_a_package_for_ios18(package, network, digit, tmp_path):
    with pytest.raises(TargetError, match=r"iOS16.* 3 bits; .*minimum_deployment_target='iOS18'"):
        palettize_package(package, [2, 3])
    path = (
        CoreMLExport(tmp_path / "net.mlpackage", minimum_deployment_target="iOS18").run(network, digit).path
    )
    assert {layer.bits for layer in inspect(palettize_package(path, [3])[3]).layers} == {3, 16}


def test_a_classifier_can_be_palettized_and_keeps_its_labels_and_metadata(network, digit, tmp_path):
    labels = [f"digit {index}" for index in range(10)]
    export = CoreMLExport(
        tmp_path / "net.mlpackage", class_labels=labels, wrapper=softmax_outputs, author="Ada"
    )
    path = export.run(network, digit).path
    report = inspect(palettize_package(path, [4])[4])
    assert list(report.labels) == labels
    assert report.author == "Ada"
    assert "palettized" in {layer.technique for layer in report.layers}
    assert [feature.name for feature in report.outputs] == ["classLabel", "classLabel_probs"]


def test_widths_that_core_ml_has_not_are_refused(package):
    with pytest.raises(ConfigurationError, match="palettize=5"):
        palettize_package(package, [4, 5])
    with pytest.raises(ConfigurationError, match="n_bits is empty"):
        palettize_package(package, [])


def test_a_package_without_large_weights_is_refused(package):
    with pytest.raises(
        PackageError,
        match="no dense weight of two or more dimensions with more than weight_threshold=100,000",
    ):
        palettize_package(package, [4], weight_threshold=100_000)


def test_fewer_values_than_entries_are_kept_exactly():
    weight = np.array([[0.5, -0.25, 0.0, -0.0, 0.5]] * 3, dtype=np.float16)
    stored = DenseWeight(weight, 0, 1).stored(PostTrainingForm(palettize=2))
    np.testing.assert_array_equal(stored.values(), weight)
