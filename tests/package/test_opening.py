from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder

from lightning_compress.errors import PackageError
from lightning_compress.package.inspection import decompressed_weights, inspect
from lightning_compress.package.opening import open_package
from tests.package.damaging import weight_file


def test_a_whole_package_opens(package):
    assert open_package(package).specification_version == 9


def test_a_path_with_nothing_is_refused(tmp_path):
    with pytest.raises(PackageError, match=r"There is no Core ML package at .*none\.mlpackage"):
        inspect(tmp_path / "none.mlpackage")


def test_a_folder_that_is_no_package_is_refused(tmp_path):
    with pytest.raises(PackageError, match=r"is not a Core ML package: it has no Manifest\.json"):
        inspect(tmp_path)


def test_a_compiled_model_is_refused(tmp_path):
    (tmp_path / "net.mlmodelc").mkdir()
    with pytest.raises(PackageError, match=r"is a compiled model\. Load the \.mlpackage"):
        inspect(tmp_path / "net.mlmodelc")


def neural_network(path):
    builder = NeuralNetworkBuilder([("x", datatypes.Array(4))], [("y", datatypes.Array(4))])
    builder.add_activation("relu", "RELU", "x", "y")
    ct.models.MLModel(builder.spec, skip_model_load=True).save(str(path))
    return path


def test_an_older_model_file_is_refused(tmp_path):
    with pytest.raises(PackageError, match=r"older neural-network model. Convert it again"):
        inspect(neural_network(tmp_path / "old.mlmodel"))


def test_an_older_model_in_a_package_is_refused(tmp_path):
    with pytest.raises(PackageError, match="older neural-network model. Convert it again"):
        inspect(neural_network(tmp_path / "old.mlpackage"))


def test_a_missing_weight_file_is_named(package):
    weight_file(package).unlink()
    with pytest.raises(PackageError, match=r"weight file 'weight\.bin' is missing"):
        inspect(package)


@pytest.mark.parametrize("kept", [0, 50, 1000, -100])
def test_a_truncated_weight_file_is_named(package, kept):
    file = weight_file(package)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(PackageError, match=r"weight file 'weight\.bin' is truncated"):
        decompressed_weights(package)


def test_a_weight_file_of_something_else_is_named(package):
    file = weight_file(package)
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(PackageError, match=r"weight file 'weight\.bin' is damaged: no weight record"):
        inspect(package)


def test_a_garbled_model_is_refused(package):
    next(package.rglob("model.mlmodel")).write_bytes(np.random.default_rng(0).bytes(1000))
    with pytest.raises(PackageError, match="damaged or encrypted"):
        inspect(package)


def test_an_empty_model_is_refused(package):
    next(package.rglob("model.mlmodel")).write_bytes(b"")
    with pytest.raises(PackageError, match="damaged or encrypted"):
        inspect(package)


def test_a_garbled_manifest_is_refused(package):
    (package / "Manifest.json").write_text("{")
    with pytest.raises(PackageError, match="is damaged"):
        inspect(package)
