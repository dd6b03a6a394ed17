"""Where coremltools 9.0 converts a compressed model wrongly or wastefully, and what is done about it.

Each workaround says what goes wrong. `tests/coreml/test_workarounds.py` fails when coremltools fixes one, so
that it can go.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_compress.coreml.compressed_constants import write_constant
from lightning_compress.coreml.metadata_buffers import metadata_of
from lightning_compress.coreml.recovery import compressed_tensor


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Set an attribute for the length of a block."""
    original = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def names_of_their_own() -> Iterator[None]:
    """Number the operations without a name from 0.

    coremltools 9 begins to count after each conversion, and counts what is loaded in between, so that the same model is
    another file in a process that has looked at packages before.
    """
    from coremltools.converters.mil.mil import Builder

    with replaced(Builder, "name_count", defaultdict(int)):
        yield


@contextmanager
def patched_converter() -> Iterator[None]:
    """Convert a compressed torch model with coremltools' defects of that path fixed.

    - Compressed weights: `TorchConverter._construct_compression_op` writes rank 4 and the simple forms only, sets small
      weights of sparse layers to zero, compares each weight with each palette entry in arrays of gigabytes, and stores
      a weight dense where it fails with a NotImplementedError. Here `write_constant` writes every form, or raises.
    - Quantized activations: the pass `int_op_canonicalization` turns dequantize, reshape, quantize into a reshape
      of the integers whatever their scales and zero points are. Where those before a flatten differ from those
      after it, every value that follows is wrong. Here only equal ones are taken together.
    """
    from coremltools.converters.mil.frontend.torch import converter
    from coremltools.converters.mil.mil.passes.defs.optimize_quantization import int_op_canonicalization

    def write(torch_converter: Any, values: npt.NDArray[Any], name: str) -> Any:
        metadata = metadata_of(torch_converter.param_to_compression_info[name], name)
        return write_constant(compressed_tensor(values, metadata, name), name, torch_converter.opset_version)

    match_pattern = int_op_canonicalization.match_pattern

    def match_equal_levels(graph_pass: Any, operation: Any) -> Any:
        matched = match_pattern(graph_pass, operation)
        return matched if matched is not None and _have_equal_levels(*matched) else None

    with names_of_their_own(), ExitStack() as stack:
        stack.enter_context(replaced(int_op_canonicalization, "match_pattern", match_equal_levels))
        stack.enter_context(replaced(converter.TorchConverter, "_construct_compression_op", write))
        yield


def _have_equal_levels(dequantize: Any, quantize: Any) -> bool:
    """Whether two operations stand for the same real number by each integer."""
    if dequantize.input.dtype != quantize.outputs[0].dtype:
        return False
    scales = [np.asarray(operation.scale.val, np.float32) for operation in (dequantize, quantize)]
    zeros = [
        np.asarray(0 if operation.zero_point is None else operation.zero_point.val, np.int32)
        for operation in (dequantize, quantize)
    ]
    # Scales and zero points of one channel each would have to follow their axis through the reshape.
    return all(value.size == 1 for value in (*scales, *zeros)) and bool(
        np.array_equal(scales[0].reshape(()), scales[1].reshape(()))
        and np.array_equal(zeros[0].reshape(()), zeros[1].reshape(()))
    )
