"""A pytest plugin that lets coremltools' own tests of MIL ops run their packages here, where Core ML does not exist.

coremltools ships a test of every op, with expected outputs, and skips the comparison on anything but macOS. With this
plugin the packages that those tests build are run by `lightning_compress.runtime` instead:

    PYMIL_TEST_TARGETS=mlprogram python -m pytest -p tests.runtime.coremltools_conformance \
        --pyargs coremltools.converters.mil.mil.ops.tests.iOS17

CONFORMANCE_STRIDE=20 runs every twentieth of the ten thousand tests.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil.ops.tests import testing_utils
from coremltools.models import MLModel

from lightning_compress import runtime

_LOADED: list[tuple[object, runtime.CoreMLProgram]] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep every so many-th test."""
    items[:] = items[:: int(os.environ.get("CONFORMANCE_STRIDE", "1"))]


def predict(model: MLModel, inputs: dict[str, object], state: object = None) -> dict[str, np.ndarray]:
    """What `MLModel.predict` returns on macOS."""
    module = next((module for key, module in _LOADED if key is model), None)
    if module is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.mlpackage"
            model.save(str(path))
            module = runtime.load(path, precision="float16")
        _LOADED[:] = [(model, module)]
    tensors = {}
    for item in module.inputs:
        value = inputs[item.name]
        array = np.asarray(value)
        if hasattr(value, "getbands"):
            array = array.reshape(*array.shape[:2], -1).transpose(2, 0, 1)[None]
        tensors[item.name] = torch.from_numpy(array.copy()).to(item.dtype)
    outputs = module(**tensors)
    return {
        name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in outputs.items()
    }


def compare(
    mlmodel: MLModel,
    input_key_values: dict[str, object],
    expected_outputs: dict[str, object],
    dtype: str = "fp32",
    atol: float = 1e-4,
    rtol: float = 1e-5,
    also_compare_shapes: bool = True,
    state: object = None,
    allow_mismatch_ratio: float = 0.0,
) -> dict[str, np.ndarray] | None:
    """Stands in for coremltools' `compare_backend`, with the tolerances that it has on macOS."""
    if not mlmodel.is_package or expected_outputs is None:
        return None
    results = predict(mlmodel, input_key_values, state)
    if dtype == "fp16":
        atol, rtol = max(atol * 100, 2e-2), max(rtol * 100, 2e-2)
    for name, expected in expected_outputs.items():
        actual = results[name] if name in results else next(iter(results.values()))
        if isinstance(expected, str):
            assert actual == [expected]
        elif isinstance(expected, dict):
            np.testing.assert_allclose(actual.reshape(-1), list(expected.values()), atol=atol, rtol=rtol)
        else:
            expected = np.asarray(expected)
            if also_compare_shapes and expected.size != 1:
                assert actual.shape == expected.shape
            np.testing.assert_allclose(actual.reshape(expected.shape), expected, atol=atol, rtol=rtol)
    return results


testing_utils.compare_backend = compare
MLModel.predict = predict
