"""A program as coremltools' `Program`: the one place where its reader is called."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coremltools.converters.mil.frontend.milproto import load as milproto
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.operation import Operation
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

from lightning_compress.errors import PackageError
from lightning_compress.package.explaining import reason
from lightning_compress.package.files import shown
from lightning_compress.package.reader import operations_of_function
from lightning_compress.package.structure import interfaces

_READER_NAMES = {"write_state": "coreml_update_state"}
"""Operations that coremltools' reader gives another name than packages do."""

_LARGEST_COMPUTED = 2**26
"""Elements up to which coremltools computes what follows from constants; a `fill` says 10^12 in a few bytes."""

_LEAST_DENSE = 2**26
_DENSE_PER_BYTE = 256
"""Elements that weights may have, dense, and for each byte stored: vectors of 32 looked up by one bit have as many."""


def reader_name(op_type: str) -> str:
    """What coremltools' reader calls an operation of a package."""
    return _READER_NAMES.get(op_type, op_type)


def count_operations(model: Any, functions: set[str] | None = None) -> Counter[str]:
    """How many operations of each type a `Model` message with an ML Program has.

    Args:
        model: The message.
        functions: Which functions to count in; all if None.
    """
    program = model.mlProgram
    return Counter(
        operation.type
        for name in program.functions
        if functions is None or name in functions
        for operation in operations_of_function(program.functions[name])
    )


def read_program(model: Any, weights: Path | None, package: Path, minimum_version: int = 0) -> Any:
    """The ML Program of a `Model` message as coremltools' `Program`.

    Args:
        model: The message; `reader.read_package` has found that it holds together.
        weights: The folder of its weight files.
        package: For messages.
        minimum_version: Of Core ML's specification, that the program is read as of at least.

    Raises:
        PackageError: If coremltools cannot read it, naming the operation; or it holds operations that coremltools does
            not know, or weights that are far larger than what is stored of them.
    """
    where = f"the program of {shown(package)}"
    # coremltools calls whatever of its builder an operation's type names.
    unknown = {
        name: count
        for name, count in sorted(count_operations(model).items())
        if name not in SSAOpRegistry.core_ops and name not in _READER_NAMES
    }
    if unknown:
        listed = ", ".join(f"{name!r} ({count} times)" for name, count in unknown.items())
        raise PackageError(f"{where} uses operations that coremltools does not know: {listed}.")
    try:
        with _bounded_inference():
            program = milproto.load(
                model, max(model.specificationVersion, minimum_version), str(weights or "")
            )
    except Exception as error:
        raise PackageError(f"{where} cannot be read: {_operation_of(error)}{reason(error)}") from error
    _check_dense_size(program, weights, where)
    # coremltools' reader does not set it, and its writer asks for it.
    program.default_function_name = next(iter(interfaces(model)))
    return program


def _operation_of(error: BaseException) -> str:
    """The operation that coremltools' reader was at, from the frames of its exception, for it does not say."""
    found, trace = "", error.__traceback__
    while trace is not None:
        operation = trace.tb_frame.f_locals.get("op_spec")
        if trace.tb_frame.f_globals.get("__name__") == milproto.__name__ and operation is not None:
            name = operation.outputs[0].name if operation.outputs else ""
            found = f"operation {name!r} of type {operation.type!r}: "
        trace = trace.tb_next
    return found


@contextmanager
def _bounded_inference() -> Iterator[None]:
    """Let coremltools' builder compute no value of more than `_LARGEST_COMPUTED` elements, which it does unasked.

    Without the value an operation stays an operation; constants keep theirs, which the file holds.
    """
    infer = Operation._auto_val

    def infer_small(operation: Any, output_types: Any) -> Any:
        if operation.op_type != "const" and any(
            _elements(output) > _LARGEST_COMPUTED for output in output_types
        ):
            return tuple(None for _ in output_types)
        return infer(operation, output_types)

    Operation._auto_val = infer_small
    try:
        yield
    finally:
        Operation._auto_val = infer


def _elements(kind: Any) -> int:
    if not types.is_tensor(kind):
        return 1
    return math.prod(int(size) for size in kind.get_shape() if isinstance(size, int) or hasattr(size, "item"))


def _check_dense_size(program: Any, weights: Path | None, where: str) -> None:
    """Raise if the compressed weights, dense, are far larger than they can be for what is stored of them."""
    files = [] if weights is None or not weights.is_dir() else list(weights.iterdir())
    stored = sum(file.stat().st_size for file in files if file.is_file())
    dense = sum(
        _elements(output.sym_type)
        for function in program.functions.values()
        for operation in _constexpr_operations(function)
        for output in operation.outputs
    )
    if dense > _LEAST_DENSE + _DENSE_PER_BYTE * stored:
        raise PackageError(
            f"{where} is damaged: its compressed weights have {dense:,} elements, and {stored:,} bytes are stored of "
            "them."
        )


def _constexpr_operations(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        if operation.op_type.startswith("constexpr_"):
            yield operation
        for nested in operation.blocks:
            yield from _constexpr_operations(nested)
