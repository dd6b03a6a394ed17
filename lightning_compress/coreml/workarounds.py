"""Where coremltools 9.0 converts a compressed model wrongly or wastefully, and what is done about it.

Each workaround says what goes wrong. `tests/coreml/test_workarounds.py` fails when coremltools fixes one, so
that it can go.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_compress.kmeans import assign
from lightning_compress.package.constexpr import palette_blocks


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
def patched_converter() -> Iterator[None]:
    """Convert a compressed torch model with coremltools' defects of that path fixed.

    - Sparse weights: `TorchConverter._construct_sparsification_op` sets every weight of magnitude up to
      0.00098 (the spacing of float16 at one) to zero, not only those that are zero. Layers of small weights
      would lose more than was pruned. Here the threshold is zero.
    - Palettized weights: `optimize._utils.find_indices_for_lut` compares each weight with each palette entry
      in arrays of weights x entries: 2.4 GB a copy for a 512x512x3x3 convolution at 8 bits. Here one binary
      search finds the same indices.
    - Quantized activations: the pass `int_op_canonicalization` turns dequantize, reshape, quantize into a reshape
      of the integers whatever their scales and zero points are. Where those before a flatten differ from those
      after it, every value that follows is wrong. Here only equal ones are taken together.
    """
    from coremltools.converters.mil.frontend.torch import converter
    from coremltools.converters.mil.mil.passes.defs.optimize_quantization import int_op_canonicalization

    utilities = converter.optimize_utils
    compress_by_threshold = converter.prune_weights.compress_by_threshold
    find_indices_for_lut = utilities.find_indices_for_lut

    def keep_all_but_zeros(
        val: npt.NDArray[Any], threshold: float, minimum_sparsity_percentile: float
    ) -> Any:
        return compress_by_threshold(val, 0.0, minimum_sparsity_percentile)

    def search_indices(
        data: npt.NDArray[Any], lut: npt.NDArray[Any], vector_axis: int | None = None
    ) -> npt.NDArray[Any]:
        if lut.shape[-1] > 1 or len(lut.shape) != len(data.shape) + 2:
            return np.asarray(find_indices_for_lut(data, lut, vector_axis))
        indices = scalar_palette_indices(data, lut)
        n_bits = int(np.log2(lut.shape[-2]))
        types = converter.types
        return indices.astype(types.nptype_from_builtin(types.string_to_builtin(f"uint{n_bits}")))

    match_pattern = int_op_canonicalization.match_pattern

    def match_equal_levels(graph_pass: Any, operation: Any) -> Any:
        matched = match_pattern(graph_pass, operation)
        return matched if matched is not None and _have_equal_levels(*matched) else None

    with ExitStack() as stack:
        stack.enter_context(replaced(int_op_canonicalization, "match_pattern", match_equal_levels))
        stack.enter_context(
            replaced(converter.prune_weights, "compress_by_threshold", staticmethod(keep_all_but_zeros))
        )
        stack.enter_context(replaced(utilities, "find_indices_for_lut", search_indices))
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


def scalar_palette_indices(data: npt.NDArray[Any], lut: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Index of the nearest entry of each element's palette, the lowest index among equally near ones.

    Args:
        data: Weights, shape (s_0, ..., s_n).
        lut: Palettes, shape (g_0, ..., g_n, K, 1): along axis i one palette for each run of s_i / g_i
            elements.

    Returns:
        Indices of the shape of `data`.
    """
    indices = np.empty(data.shape, dtype=np.uint8)
    for group, block in palette_blocks(lut.shape[:-2], data.shape):
        indices[block] = assign(data[block], lut[group][:, 0])
    return indices
