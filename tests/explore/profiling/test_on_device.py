"""The part of the script that needs no Core ML: how often is predicted, and where operations are counted.

`predict` stands in for Core ML's, which runs on macOS alone; the structures of plans are coremltools' own classes.
"""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.models.compute_device import (
    MLComputeDevice,
    MLCPUComputeDevice,
    MLGPUComputeDevice,
    MLNeuralEngineComputeDevice,
)
from coremltools.models.compute_plan import (
    MLComputePlanDeviceUsage,
    MLModelStructure,
    MLModelStructureNeuralNetwork,
    MLModelStructureNeuralNetworkLayer,
    MLModelStructurePipeline,
    MLModelStructureProgram,
    MLModelStructureProgramBlock,
    MLModelStructureProgramFunction,
    MLModelStructureProgramOperation,
)
from PIL import Image
from torch import nn

from lightning_compress import CoreMLExport
from lightning_compress.coreml.verification import coreml_is_available
from lightning_compress.explore.profiling.on_device import (
    as_picture,
    bytes_of,
    count_places,
    durations,
    load_in_coreml,
)
from lightning_compress.package.sizes import package_bytes


def device(kind: type[MLComputeDevice]) -> MLComputeDevice:
    """A device of coremltools, which makes them on macOS alone."""
    return object.__new__(kind)


class Plan:
    """Answers as coremltools' plan does: a device for each operation, by its name, and None for constants."""

    devices = {  # noqa: RUF012
        "conv": device(MLNeuralEngineComputeDevice),
        "softmax": device(MLCPUComputeDevice),
        "resize": device(MLGPUComputeDevice),
    }

    def __init__(self, structure: MLModelStructure) -> None:
        self.model_structure = structure

    def usage(self, name: str) -> MLComputePlanDeviceUsage | None:
        found = self.devices.get(name)
        return None if found is None else MLComputePlanDeviceUsage(found, [found])

    def get_compute_device_usage_for_mlprogram_operation(self, operation):
        return self.usage(operation.operator_name)

    def get_compute_device_usage_for_neuralnetwork_layer(self, layer):
        return self.usage(layer.type)


def operation(name: str, *inner: str) -> MLModelStructureProgramOperation:
    blocks = [block(*inner)] if inner else []
    return MLModelStructureProgramOperation({}, name, [], blocks, None)


def block(*names: str) -> MLModelStructureProgramBlock:
    return MLModelStructureProgramBlock([], [operation(name) for name in names], [])


def program(*operations: MLModelStructureProgramOperation) -> MLModelStructure:
    function = MLModelStructureProgramFunction([], MLModelStructureProgramBlock([], list(operations), []))
    return MLModelStructure(None, MLModelStructureProgram({"main": function}), None)


def test_operations_are_counted_where_they_run_and_constants_nowhere():
    plan = Plan(program(operation("const"), operation("conv"), operation("conv"), operation("softmax")))
    assert count_places(plan) == {"NeuralEngine": 2, "CPU": 1}


def test_operations_inside_of_a_condition_are_counted_too():
    assert count_places(Plan(program(operation("cond", "conv", "resize")))) == {"NeuralEngine": 1, "GPU": 1}


def test_a_pipeline_counts_all_of_its_models():
    layers = [MLModelStructureNeuralNetworkLayer("last", "softmax", [], [], None)]
    parts = (
        ("network", program(operation("conv"))),
        ("labels", MLModelStructure(MLModelStructureNeuralNetwork(layers), None, None)),
        ("suppression", MLModelStructure(None, None, None)),
    )
    plan = Plan(MLModelStructure(None, None, MLModelStructurePipeline(parts)))
    assert count_places(plan) == {"NeuralEngine": 1, "CPU": 1}


def test_predictions_that_warm_up_do_not_count_and_samples_take_turns():
    calls: list[float] = []

    def predict(values):
        calls.append(values["x"])
        values.clear()
        return float(len(calls))

    samples = [{"x": 0.0}, {"x": 1.0}, {"x": 2.0}]
    assert durations(predict, samples, repetitions=10, most_seconds=100.0) == [float(n) for n in range(6, 16)]
    assert calls == [0, 1, 2, 0, 1, *[place % 3 for place in range(10)]]
    assert samples == [{"x": 0.0}, {"x": 1.0}, {"x": 2.0}]


def test_where_predictions_take_long_a_few_are_enough():
    assert len(durations(lambda values: 1.0, [{}], repetitions=50, most_seconds=0.0)) == 5


@pytest.mark.skipif(coreml_is_available(), reason="Core ML would load it")
def test_what_core_ml_does_not_load_is_no_time(tmp_path):
    export = CoreMLExport(tmp_path / "net.mlpackage", card=False, verify=False)
    export.run(nn.Linear(8, 4).eval(), torch.zeros(1, 8))
    with pytest.raises(RuntimeError, match="Core ML cannot load it on this system"):
        load_in_coreml(tmp_path / "net.mlpackage", "ALL")


class Model:
    """Stands in for coremltools' model where Core ML has loaded it; its clock says 2.5 ms."""

    __proxy__ = object()
    last_predict_duration_in_nano_seconds = 2_500_000

    def __init__(self, path: str, compute_units: ct.ComputeUnit) -> None:
        assert compute_units is ct.ComputeUnit.CPU_AND_NE
        self.given: list[tuple[object, object]] = []

    def get_spec(self):
        spec = ct.proto.Model_pb2.Model()
        spec.description.state.add().name = "cache"
        return spec

    def make_state(self):
        return "state"

    def get_compiled_model_path(self):
        return "net.mlmodelc"

    def predict(self, values, state):
        assert (values, state) == ({"x": 1}, "state")


@pytest.mark.skipif(coreml_is_available(), reason="there would be a plan")
def test_the_clock_is_that_of_core_ml_and_a_missing_plan_takes_no_time_away(monkeypatch, capsys):
    monkeypatch.setattr(ct.models, "MLModel", Model)
    predict, placement = load_in_coreml(Path("net.mlpackage"), "CPU_AND_NE")
    assert predict({"x": 1}) == 2.5
    assert placement == {}
    assert "where operations run is unknown" in capsys.readouterr().err


@pytest.mark.parametrize(("shape", "mode"), [((4, 6), "L"), ((4, 6, 3), "RGB")])
def test_pixels_become_a_picture_of_the_kind_that_core_ml_takes(shape, mode):
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    picture = as_picture(pixels)
    assert isinstance(picture, Image.Image)
    assert (picture.mode, picture.size) == (mode, (6, 4))
    assert np.array_equal(np.asarray(picture), pixels)


def test_bytes_are_counted_as_the_search_counts_them(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "weights").write_bytes(b"x" * 100)
    (tmp_path / "a" / "manifest").write_bytes(b"x" * 7)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / "manifest")
    assert bytes_of(tmp_path / "a") == package_bytes(tmp_path / "a") == 107
