"""The weights of a program, each with how it is stored."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_compress.package.constexpr import decompressed
from lightning_compress.package.storage import Storage, read_storage, stored_constants

_LEAST_ELEMENTS = 10
"""Smaller constants are parameters of operations; coremltools keeps them out of the weight file."""

_ADDED_TO_NAMES = re.compile(
    # before a name that starts with a digit, which Core ML does not allow
    r"^(?:var|op)_(?=\d)"
    r"|(?:_to_fp16|_to_fp32|(?:_\d+)?_cast_fp16|_palettized_pcs|_palettized|_sparsified|_quantized)+$"
)
"""What coremltools adds to the name of a torch parameter."""


@dataclass(frozen=True)
class Weight:
    """A constant tensor that an operation takes.

    Attributes:
        name: Name of the weight, as the converter derived it from the torch parameter.
        operation: Type of the operation that takes it ("conv").
        parameter: Which of the operation's inputs it is ("weight").
        shape: Shape of the decompressed weight.
        storage: How it is stored.
    """

    name: str
    operation: str
    parameter: str
    shape: tuple[int, ...]
    storage: Storage
    _variable: Any

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    @property
    def constant(self) -> str:
        """Name of the program's constant that it is."""
        return str(self._variable.name)

    @property
    def float16_bytes(self) -> int:
        """Bytes of the same weight, dense, at float16."""
        return 2 * self.size

    def values(self) -> npt.NDArray[Any]:
        """The decompressed values."""
        return decompressed(self._variable)


def iterate_weights(program: Any) -> Iterator[Weight]:
    """The floating-point weights of a coremltools `Program`, in the order of its operations, each once.

    Functions of one program share their weights in the file; what is stored alike in two of them counts once.
    """
    functions = list(program.functions.values())
    earlier: set[bytes] = set()
    for function in functions:
        here = set()
        for weight in _weights_of_block(function, set()):
            if len(functions) > 1:
                digest = _digest(weight._variable)
                here.add(digest)
                if digest in earlier:
                    continue
            yield weight
        earlier |= here


def iterate_operations(program: Any) -> Iterator[Any]:
    """The operations of a coremltools `Program` that compute something, nested blocks included."""
    for function in program.functions.values():
        yield from _operations_of_block(function)


def _operations_of_block(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        if operation.op_type != "const" and not operation.op_type.startswith("constexpr_"):
            yield operation
        for nested in operation.blocks:
            yield from _operations_of_block(nested)


def _weights_of_block(block: Any, seen: set[Any]) -> Iterator[Weight]:
    for operation in _operations_of_block(block):
        for parameter, value in operation.inputs.items():
            for variable in value if isinstance(value, (list, tuple)) else [value]:
                if variable.op is None or variable in seen or not _is_weight(variable):
                    continue
                seen.add(variable)
                yield Weight(
                    name=_ADDED_TO_NAMES.sub("", variable.name),
                    operation=operation.op_type,
                    parameter=parameter,
                    shape=tuple(int(extent) for extent in variable.shape),
                    storage=read_storage(variable),
                    _variable=variable,
                )


def _digest(variable: Any) -> bytes:
    """Of what a weight is stored as."""
    digest = hashlib.sha256()
    for constant in stored_constants(variable):
        values = np.ascontiguousarray(constant.val)
        digest.update(f"{constant.dtype} {values.shape}".encode())
        digest.update(values.data)
    return digest.digest()


def _is_weight(variable: Any) -> bool:
    if variable.op.op_type.startswith("constexpr_"):
        return True
    value = variable.val if variable.op.op_type == "const" else None
    return isinstance(value, np.ndarray) and value.size >= _LEAST_ELEMENTS and value.dtype.kind == "f"
