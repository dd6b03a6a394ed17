"""Passes that find compressed tensors which a conversion has moved about.

A converter reorders the gates of recurrent layers, splits weights, and leaves a transposed weight as an operation:
what was one tensor with metadata arrives as other constants, dense. Rows of values tell where they came from.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import coremltools as ct
import numpy as np
import numpy.typing as npt
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass

from lightning_compress.coreml.compressed import CompressedTensor, concatenated
from lightning_compress.coreml.compressed_constants import read_constant, write_constant
from lightning_compress.coreml.metadata_buffers import Selected
from lightning_compress.coreml.programs import (
    blocks_of,
    consumers,
    inside,
    is_early_recurrent,
    numpy_type,
    opset_of,
    replace_variable,
)
from lightning_compress.coreml.recovery import compressed_tensor
from lightning_compress.errors import CompressionError
from lightning_compress.package.targets import target_name

Array = npt.NDArray[Any]

_ALL_ORDERS = 3
"""Up to this many axes every order of a constant's axes is looked at."""

_FEWEST = 64
"""A constant that is smaller than the smallest selected tensor by more than this factor is none of its parts."""

_TELLING = 3
"""A constant of fewer distinct values than this, zero aside, such as a mask, tells nothing of where they came from."""


class FoldTranspose(AbstractGraphPass):  # type: ignore[misc]
    """Move each transpose of a compressed constant into the constant."""

    def apply(self, prog: Any) -> None:
        """Change a program in place."""
        for block in blocks_of(prog):
            for operation in list(block.operations):
                if operation.op_type != "transpose" or operation.perm.val is None:
                    continue
                tensor = read_constant(operation.x)
                if tensor is None or operation.outputs[0] in block.outputs:
                    continue
                with inside(block):
                    moved = write_constant(
                        tensor.transposed([int(axis) for axis in operation.perm.val]),
                        f"{operation.x.name}_transposed",
                        opset_of(prog),
                        dtype=numpy_type(operation.x),
                        before=operation,
                    )
                    replace_variable(block, operation, operation.outputs[0], moved)
                    block.remove_ops([operation])


class RecognizeConstants(AbstractGraphPass):  # type: ignore[misc]
    """Store dense constants that hold a selected tensor's values, rearranged, as that tensor is stored.

    Attributes:
        selected: The tensors with metadata; set before the pass is applied.
    """

    def __init__(self) -> None:
        super().__init__()
        self.selected: Collection[Selected] = ()

    def apply(self, prog: Any) -> None:
        """Change a program in place.

        Raises:
            CompressionError: If a dense constant is made of a selected tensor's values and cannot be stored as it.
        """
        sources = Sources(self.selected)
        if not sources:
            return
        opset = opset_of(prog)
        for block in blocks_of(prog):
            for operation in list(block.operations):
                if operation.op_type != "const" or not _is_array(operation.outputs[0].val):
                    continue
                variable = operation.outputs[0]
                takers = consumers(variable)
                if not takers and variable not in block.outputs:
                    continue
                if takers and all(taker.op_type.startswith("constexpr_") for taker in takers):
                    # A palette or a scale of a constant that is stored compressed.
                    continue
                early = is_early_recurrent(variable, opset)
                found = None if early or variable in block.outputs else sources.rearranged(variable.val)
                if found is None:
                    _require_unselected(variable, sources, opset, early)
                    continue
                with inside(block):
                    constant = write_constant(
                        found.tensor, found.name, opset, dtype=variable.val.dtype, before=operation
                    )
                    replace_variable(block, operation, variable, constant)
                    block.remove_ops([operation])


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim > 1


def _require_unselected(variable: Any, sources: Sources, opset: ct.target, early: bool) -> None:
    held = sources.held(variable.val)
    if not held:
        return
    reason = (
        f'recurrent layers take compressed weights from iOS18 on: ask for minimum_deployment_target="iOS18" '
        f"instead of {target_name(opset.value)}"
        if early
        else "leave the tensor out of the compression"
    )
    raise CompressionError(
        f"{', '.join(held)} would be stored dense, in the constant {variable.name!r}, although compression was "
        f"asked for; {reason}"
    )


@dataclass(frozen=True)
class Recognized:
    """A constant as it can be stored, and the name of the tensors that it was made of."""

    tensor: CompressedTensor
    name: str


class Sources:
    """Selected tensors, to be found again by their rows."""

    def __init__(self, selected: Collection[Selected]) -> None:
        self._selected = list(selected)
        self._tensors: dict[int, CompressedTensor] = {}
        self._distinct: dict[int, Array] = {}
        self._rows: dict[int, dict[bytes, list[tuple[int, int]]]] = {}
        for index, tensor in enumerate(self._selected):
            by_row = tensor.values.reshape(len(tensor.values), -1)
            rows = self._rows.setdefault(by_row.shape[1], {})
            for row, key in enumerate(_keys(by_row)):
                rows.setdefault(key, []).append((index, row))

    def __bool__(self) -> bool:
        return bool(self._selected)

    def held(self, values: Array) -> list[str]:
        """Names of the tensors all rows of which a dense constant holds, or of whose values it is made."""
        names = self._made_of(values)
        for order in _orders(values):
            laid_out = values.transpose(order)
            by_row = laid_out.reshape(len(laid_out), -1)
            known = self._rows.get(by_row.shape[1])
            if known is None:
                continue
            places = {place for key in set(_keys(by_row)) for place in known.get(key, [])}
            for index, count in Counter(index for index, _ in places).items():
                selected = self._selected[index]
                if count == len(selected.values) and selected.values.any():
                    names.append(repr(selected.name))
        return sorted(set(names))

    def _made_of(self, values: Array) -> list[str]:
        """Names of the tensors that hold every value of a constant, such as one cut along its columns."""
        distinct = np.unique(values[values != 0].astype(np.float32))
        if values.size < _FEWEST or len(distinct) < _TELLING:
            return []
        return [
            repr(selected.name)
            for index, selected in enumerate(self._selected)
            if np.isin(distinct, self._values(index), assume_unique=True).all()
        ]

    def _values(self, index: int) -> Array:
        if index not in self._distinct:
            self._distinct[index] = np.unique(self._selected[index].values)
        return self._distinct[index]

    def rearranged(self, values: Array) -> Recognized | None:
        """A dense constant as it can be stored, if it is made of rows of selected tensors."""
        if not values.any() or values.size * _FEWEST < min(s.values.size for s in self._selected):
            return None
        for order in _orders(values):
            laid_out = values.transpose(order)
            places = self._places(laid_out.reshape(len(laid_out), -1))
            if places is None:
                continue
            parts = []
            for index, group in itertools.groupby(places, lambda place: place[0]):
                rows = self._tensor(index).rows([row for _, row in group])
                parts.append(None if rows is None else _follow(rows, laid_out.shape[1:]))
            tensors = [part for part in parts if part is not None]
            together = concatenated(tensors) if len(tensors) == len(parts) else None
            if together is None:
                continue
            moved = together.transposed([int(axis) for axis in np.argsort(order)])
            names = dict.fromkeys(self._selected[index].name for index, _ in places)
            return Recognized(moved, "_".join(names))
        return None

    def _tensor(self, index: int) -> CompressedTensor:
        if index not in self._tensors:
            selected = self._selected[index]
            self._tensors[index] = compressed_tensor(selected.values, selected.metadata, selected.name)
        return self._tensors[index]

    def _places(self, by_row: Array) -> list[tuple[int, int]] | None:
        known = self._rows.get(by_row.shape[1])
        if known is None:
            return None
        places: list[tuple[int, int]] = []
        for key in _keys(by_row):
            candidates = known.get(key)
            if candidates is None:
                return None
            following = (places[-1][0], places[-1][1] + 1) if places else None
            places.append(following if following in candidates else candidates[0])
        return places


def _keys(by_row: Array) -> Iterator[bytes]:
    # A zero has two signs and one value.
    for row in np.ascontiguousarray(by_row, dtype=np.float32) + np.float32(0):
        yield row.tobytes()


def _orders(values: Array) -> Sequence[tuple[int, ...]]:
    axes = tuple(range(values.ndim))
    if values.ndim <= _ALL_ORDERS:
        return list(itertools.permutations(axes))
    return [axes, (*axes[:-2], axes[-1], axes[-2]), (1, 0, *axes[2:])]


def _follow(tensor: CompressedTensor, shape: tuple[int, ...]) -> CompressedTensor | None:
    target = (tensor.shape[0], *shape)
    return tensor if tensor.shape == target else tensor.reshaped(target)
