"""The quantization tests that coremltools ships pass with our quantization under the names of its own.

Those of keys, defaults, milestones, reports, observers and learned scales. Left out, each for its reason, are those of
what no longer exists: graphs traced by torch.fx with fused modules.
"""

from __future__ import annotations

import pytest

from tests.shipped_tests import run_shipped_tests

FILES = ("test_quantizer.py", "test_observers.py", "test_learnable_fake_quantize.py")
"""Not test_configure.py, which looks at nodes of fx graphs and at the fused modules in them throughout, nor
test_coreml_quantizer.py, which is about another class, for `torch.export`."""

LEFT_OUT = {
    "test_activation_defaults": "asks for a fused module; symmetric inputs from a ReLU are tested here",
    "test_linear_quantizer_preserved_attributes": "asserts that attributes are lost unless they are listed",
    "test_linear_quantizer_compression_metadata": "looks into a fused module; the metadata is tested here",
    "test_linear_quantizer_fq_insert": "asks for the classes of torch.ao",
    "test_linear_quantizer_observer_sync": "is about reducing within forward passes, which nothing does any more",
    "test_learnable_fake_quantize_init": "asks for attributes of torch.ao's base class",
    "test_learnable_fake_quantize_setters": "asks for attributes of coremltools' class",
    "test_observer_checkpoint": "compares states as dicts, and so asks for the very same tensors after loading",
    "test_observer_fake_quantize": "makes an instance of torch.ao's class",
}


REDUCED_RANGE = "not (test_learnable_fake_quantize and EMAMinMaxObserver-None-True)"
"""Ranges reduced by a bit, which no configuration can ask for."""


@pytest.mark.slow
def test_coremltools_own_tests_pass(tmp_path):
    only = " and ".join([REDUCED_RANGE, *(f"not {name}" for name in LEFT_OUT)])
    summary = run_shipped_tests(
        tmp_path, "quantization", FILES, "import tests.methods.coremltools_quantization", only=only
    )
    assert summary.startswith("105 passed")
