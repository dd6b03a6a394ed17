"""coremltools' own configuration files are followed, operation by operation, and mistakes in them are told."""

from __future__ import annotations

import pytest

from lightning_compress.coreml import CoreMLExport
from lightning_compress.coreml.post_training import configured_package, read_configuration
from lightning_compress.errors import ConfigurationError, TargetError
from lightning_compress.package.inspection import inspect

PALETTES = """
config_type: OpPalettizerConfig
global_config: {mode: kmeans, nbits: 4}
op_type_configs:
  linear: {mode: kmeans, nbits: 2}
"""
ZEROS = """
config_type: OpMagnitudePrunerConfig
global_config: {target_sparsity: 0.5}
"""


@pytest.fixture(scope="module")
def package(build_network, digit, tmp_path_factory):
    path = tmp_path_factory.mktemp("float16") / "net.mlpackage"
    return CoreMLExport(path, minimum_deployment_target="iOS18").run(build_network(), digit).path


@pytest.fixture
def configuration(tmp_path):
    def write(text: str, name: str = "compression.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return read_configuration(path)

    return write


def test_each_type_of_operation_gets_its_own_width(package, configuration):
    model, dense = configured_package(package, [configuration(PALETTES)])
    bits = {layer.operation: layer.bits for layer in inspect(model).layers if layer.parameters > 2048}
    assert bits == {"conv": 4, "linear": 2}
    assert dense
    assert all(dense.values())


def test_several_files_are_a_joint_compression(package, configuration):
    model, _ = configured_package(package, [configuration(ZEROS, "zeros.yaml"), configuration(PALETTES)])
    techniques = {layer.technique for layer in inspect(model).layers if layer.parameters > 2048}
    assert techniques == {"pruned + palettized"}


def test_a_name_that_is_not_there_is_told_with_the_nearest(package, configuration):
    asked = configuration(
        "config_type: OpPalettizerConfig\nop_type_configs: {linaer: {mode: kmeans, nbits: 2}}\n"
    )
    with pytest.raises(ConfigurationError, match=r"op_type_configs names 'linaer'.*'linear'"):
        configured_package(package, [asked])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("global_config: {nbits: 4}", "config_type"),
        ("config_type: OpPalettizer\nglobal_config: {nbits: 4}", "OpPalettizer"),
        ("config_type: OpPalettizerConfig\nglobal_config: {mode: kmeans, bits: 4}", "bits"),
        ("config_type: OpPalettizerConfig\nglobal_config: {mode: kmeans, nbits: 5}", "nbits|5"),
        ("[", "cannot be read"),
        ("- 1", "no OptimizationConfig"),
    ],
)
def test_a_file_that_says_nothing_known_is_refused(text, message, configuration):
    with pytest.raises(ConfigurationError, match=message):
        configuration(text)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match=r"nothing\.yaml.*cannot be read"):
        read_configuration(tmp_path / "nothing.yaml")


def test_a_target_that_cannot_carry_a_joint_compression_is_told(network, digit, configuration, tmp_path):
    path = CoreMLExport(tmp_path / "net.mlpackage").run(network, digit).path
    with pytest.raises(TargetError, match="more than one compression"):
        configured_package(path, [configuration(ZEROS, "zeros.yaml"), configuration(PALETTES)])
