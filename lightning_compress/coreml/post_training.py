"""Palettizes a float16 package after training, at several widths from one reading and one count.

A float16 weight has at most 65,536 different values, so k-means needs how often each occurs and not the
weights themselves. One count through a 16-bit view serves every width, and the same view turns weights into
indices by one look-up each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import numpy.typing as npt
import torch
from coremltools.converters.mil.frontend import _utils as frontend

from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.coreml.rewriting import (
    LOWEST_SPECIFICATION,
    WEIGHT_THRESHOLD,
    model_of_program,
    require_target,
)
from lightning_compress.coreml.workarounds import names_of_their_own
from lightning_compress.errors import ConfigurationError, PackageError
from lightning_compress.finite import require_finite
from lightning_compress.kmeans import ValueCounts, assign, count_float16, kmeans_1d
from lightning_compress.package.opening import Package, open_package
from lightning_compress.package.targets import palettization_capabilities
from lightning_compress.package.weights import iterate_operations


@dataclass(frozen=True)
class Palette:
    """A tensor's palette and which entry each weight takes.

    Attributes:
        entries: Shape (2 ** n_bits,), float16, ascending.
        indices: Of the shape of the tensor.
    """

    entries: npt.NDArray[np.float16]
    indices: npt.NDArray[np.uint8]


class Palettizer:
    """One float16 tensor, counted once, palettized at any width."""

    def __init__(self, weight: npt.NDArray[np.float16]) -> None:
        self._patterns = np.ascontiguousarray(weight).view(np.uint16)
        self._counts: ValueCounts = count_float16(weight)

    def palette(self, n_bits: int) -> Palette:
        """The palette of `2 ** n_bits` entries, within 0.1% of the least possible inertia."""
        centroids = kmeans_1d(self._counts.values, self._counts.counts, 2**n_bits)
        entries = centroids.astype(np.float16)
        # Indices follow the entries as stored, not the centroids before rounding.
        index_of = np.zeros(1 << 16, dtype=np.uint8)
        values = self._counts.values
        index_of[values.astype(np.float16).view(np.uint16)] = assign(values, entries.astype(np.float64))
        index_of[1 << 15] = index_of[0]
        return Palette(entries, index_of[self._patterns])


def palettize_package(
    package: str | Path | ct.models.MLModel,
    n_bits: Sequence[int],
    *,
    weight_threshold: int = WEIGHT_THRESHOLD,
) -> dict[int, ct.models.MLModel]:
    """Palettize the weights of a float16 package by k-means, one palette a tensor, at each of several widths.

    What coremltools' `palettize_weights(mode="kmeans")` would palettize is palettized, as the same
    operations; labels, descriptions and metadata stay as they are. A package for iOS15 comes out for iOS16,
    where palettes begin.

    Args:
        package: Path of an `.mlpackage` folder with float16 weights, or a converted model.
        n_bits: Widths of a palette index, of 1, 2, 3, 4, 6 and 8.
        weight_threshold: Weights with no more elements stay dense.

    Returns:
        A model for each width, in the order given; write one with `save_package`.

    Raises:
        ConfigurationError: If a width is none that Core ML has.
        TargetError: If 3 bits are asked of a package for a target below iOS18.
        WeightError: If a weight holds NaN or infinity.
        PackageError: If the package cannot be read, or holds no float16 weight of that size.
    """
    if not n_bits:
        raise ConfigurationError("n_bits is empty; give the widths to palettize at, such as [6, 2]")
    opened = open_package(package)
    _require_targets(opened, n_bits)
    palettizers: list[Palettizer] = []
    models = {}
    for bits in dict.fromkeys(n_bits):
        with quiet_conversion(), names_of_their_own():
            # The program is read anew for each width: replacing a weight changes it, and reading costs
            # little.
            program = opened.program(LOWEST_SPECIFICATION)
            constants = [
                constant for constant in _constants(program) if _is_palettizable(constant, weight_threshold)
            ]
            if not constants:
                raise _nothing_to_palettize(opened, weight_threshold)
            palettizers = palettizers or [_palettizer(constant) for constant in constants]
            for block, members in _by_block(constants, palettizers):
                with block:
                    for constant, palettizer in members:
                        _replace(block, constant, palettizer.palette(bits))
            models[bits] = model_of_program(opened, program)
    return models


def require_widths(n_bits: Sequence[int]) -> None:
    """Find out whether Core ML has palettes of these widths.

    Raises:
        ConfigurationError: It has none of one of them.
    """
    for bits in n_bits:
        palettization_capabilities(bits)


def require_palettizable(
    package: str | Path | ct.models.MLModel,
    n_bits: Sequence[int],
    *,
    weight_threshold: int = WEIGHT_THRESHOLD,
) -> None:
    """Find out whether `palettize_package` will succeed, but for weights that are not finite.

    Raises:
        ConfigurationError: As `palettize_package` raises it, as are the following.
        TargetError: If the package's target cannot carry a width.
        PackageError: If it holds nothing to palettize.
    """
    opened = open_package(package)
    _require_targets(opened, n_bits)
    with quiet_conversion():
        constants = _constants(opened.program(LOWEST_SPECIFICATION))
    if not any(_is_palettizable(constant, weight_threshold) for constant in constants):
        raise _nothing_to_palettize(opened, weight_threshold)


def _require_targets(opened: Package, n_bits: Sequence[int]) -> None:
    for bits in n_bits:
        for capability in palettization_capabilities(bits):
            require_target(opened, capability)


def _nothing_to_palettize(opened: Package, weight_threshold: int) -> PackageError:
    return PackageError(
        f"{str(opened.path)!r} holds no dense float16 weight of more than {weight_threshold} elements"
    )


def _palettizer(constant: Any) -> Palettizer:
    values = np.asarray(constant.outputs[0].val)
    require_finite(constant.name, torch.from_numpy(values), "it cannot be palettized")
    return Palettizer(values)


def _constants(program: Any) -> list[Any]:
    """The constants that operations take, in their order, each once."""
    found: dict[Any, None] = {}
    for operation in iterate_operations(program):
        for value in operation.inputs.values():
            for variable in value if isinstance(value, (list, tuple)) else [value]:
                if variable is not None and variable.op is not None and variable.op.op_type == "const":
                    found[variable.op] = None
    return list(found)


def _is_palettizable(constant: Any, weight_threshold: int) -> bool:
    value = constant.outputs[0].val
    return (
        isinstance(value, np.ndarray)
        and value.dtype == np.float16
        and value.size > weight_threshold
        # Core ML reads a palettized vector wrongly (coremltools' own compression skips vectors for that
        # reason).
        and value.ndim > 1
    )


def _by_block(
    constants: list[Any], palettizers: list[Palettizer]
) -> list[tuple[Any, list[tuple[Any, Palettizer]]]]:
    """The constants of each block together: coremltools walks a whole block whenever one is left."""
    blocks: dict[Any, list[tuple[Any, Palettizer]]] = {}
    for constant, palettizer in zip(constants, palettizers, strict=True):
        blocks.setdefault(constant.enclosing_block, []).append((constant, palettizer))
    return list(blocks.items())


def _replace(block: Any, constant: Any, palette: Palette) -> None:
    rank = palette.indices.ndim
    variable = frontend._construct_constexpr_lut_op(
        palette.indices,
        palette.entries.reshape((1,) * rank + (-1, 1)),
        name=f"{constant.outputs[0].name}_palettized",
        before_op=constant,
    )
    block.replace_uses_of_var_after_op(
        anchor_op=constant, old_var=constant.outputs[0], new_var=variable, no_check_var_types=True
    )
    block.remove_ops([constant])
