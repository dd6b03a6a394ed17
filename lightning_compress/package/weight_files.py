"""The weight files that a program points to, checked before coremltools maps them into memory and trusts them."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coremltools import proto

from lightning_compress.errors import PackageError
from lightning_compress.package.files import require_inside, shown

_HEADER = struct.Struct("<II")
"""A weight file starts with the number of its records and its version."""

_VERSION = 2

_RECORD = struct.Struct("<IIQQQ")
"""A record starts with a sentinel, the type of the data, its bytes, where it is, and unused bits at its end."""

_RECORD_BYTES = 64
_SENTINEL = 0xDEADBEEF

_MIL = proto.MIL_pb2

_TYPES = {
    _MIL.FLOAT16: (1, 16),
    _MIL.FLOAT32: (2, 32),
    _MIL.UINT8: (3, 8),
    _MIL.INT8: (4, 8),
    _MIL.INT16: (6, 16),
    _MIL.UINT16: (7, 16),
    _MIL.INT4: (8, 4),
    _MIL.UINT1: (9, 1),
    _MIL.UINT2: (10, 2),
    _MIL.UINT4: (11, 4),
    _MIL.UINT3: (12, 3),
    _MIL.UINT6: (13, 6),
    _MIL.INT32: (14, 32),
    _MIL.UINT32: (15, 32),
}
"""By the type that a program declares, its number in weight files and its bits."""


class WeightFiles:
    """The weight files of one package.

    Args:
        folder: Where they lie.
        package: The package, for messages.
    """

    def __init__(self, folder: Path, package: Path) -> None:
        self.folder = folder
        self.package = package
        self._sizes: dict[str, int] = {}

    def check(self, value: Any, name: str) -> None:
        """Raise unless a value that a program keeps in a weight file lies whole in it, as the program declares it.

        Args:
            value: A `Value` message with a `blobFileValue`.
            name: Of the weight, for messages.

        Raises:
            PackageError: If the file is missing, leads outside, is no weight file or too short, or the record says
                another type or size than the program.
        """
        file = self.folder / value.blobFileValue.fileName.split("/")[-1]
        size = self._size(file, name)
        offset = value.blobFileValue.offset
        where = f"weight {name!r} of {shown(self.package)}"
        if offset + _RECORD_BYTES > size:
            raise PackageError(
                f"The weight file {file.name!r} is truncated: {where} starts at byte {offset} of {size}. "
                "Export or copy the package again."
            )
        with file.open("rb") as stream:
            _, version = _HEADER.unpack(stream.read(_HEADER.size))
            stream.seek(offset)
            sentinel, code, length, start, unused = _RECORD.unpack(stream.read(_RECORD.size))
        if sentinel != _SENTINEL:
            raise PackageError(
                f"The weight file {file.name!r} is damaged: no weight record for {where} at byte {offset}."
            )
        if version != _VERSION:
            raise PackageError(
                f"The weight file {file.name!r} of {shown(self.package)} is damaged: its version is {version}, and "
                f"{_VERSION} is the only one there is."
            )
        if start + length > size:
            raise PackageError(
                f"The weight file {file.name!r} is truncated: {where} ends at byte {start + length} of {size}. "
                "Export or copy the package again."
            )
        self._compare(value.type, code, length, unused, f"{where} at byte {offset} of {file.name!r}")

    def _compare(self, declared: Any, code: int, length: int, unused: int, where: str) -> None:
        tensor = declared.tensorType
        if declared.WhichOneof("type") != "tensorType" or tensor.dataType not in _TYPES:
            kind = (
                _MIL.DataType.Name(tensor.dataType)
                if tensor.dataType in _MIL.DataType.values()
                else "unknown"
            )
            raise PackageError(f"{where} is declared with the type {kind}, which weight files do not hold.")
        expected, bits = _TYPES[tensor.dataType]
        if code != expected:
            raise PackageError(
                f"{where} is damaged: the program declares the type {_MIL.DataType.Name(tensor.dataType)}, number "
                f"{expected} in weight files, and its record says {code}."
            )
        shape = [dimension.constant.size for dimension in tensor.dimensions]
        needed = -(-math.prod(shape) * bits // 8)
        # Before iOS18 nobody set the number of unused bits.
        if length != needed or (bits < 8 and length * 8 - unused != math.prod(shape) * bits):
            raise PackageError(
                f"{where} is damaged: the program declares the shape {shape}, {needed} bytes, and its record holds "
                f"{length}."
            )

    def _size(self, file: Path, name: str) -> int:
        if file.name not in self._sizes:
            if not os.path.isfile(file):
                raise PackageError(
                    f"{shown(self.package)} is incomplete: its weight file {file.name!r} is missing."
                )
            require_inside(file, self.package)
            self._sizes[file.name] = file.stat().st_size
        return self._sizes[file.name]


def values_of(operation: Any) -> Iterator[Any]:
    """Every `Value` message that an operation holds itself, those in lists included."""
    yield from operation.attributes.values()
    for argument in operation.inputs.values():
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "value":
                yield binding.value
