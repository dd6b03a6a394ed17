"""Whether the program of a specification holds together, found out before coremltools' reader trusts that it does.

That reader takes what it needs by index and by key; it was made for what coremltools itself wrote.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coremltools import proto
from coremltools.converters.mil.mil import types

from lightning_compress.errors import PackageError, did_you_mean
from lightning_compress.package.files import shown
from lightning_compress.package.targets import specification_versions
from lightning_compress.package.weight_files import WeightFiles, values_of

_MIL = proto.MIL_pb2

_LARGEST_TENSOR = 2**31
"""Elements of one tensor. Core ML's own shapes and indices are of 32 bits."""

PIPELINE_FUNCTION = "main"
"""The one function that a pipeline is, whatever those of its programs are called."""

_BLOCKS = {"cond": 2, "while_loop": 2}
"""How many nested blocks an operation has."""


def check_model(model: Any, package: Path, weights: WeightFiles) -> None:
    """Raise unless an ML Program and its description hold together, and its weights are where it says.

    Args:
        model: A `Model` message with an `mlProgram`.
        package: For messages.
        weights: The package's weight files.

    Raises:
        PackageError: Naming the function, the operation and what is wrong with it.
    """
    where = shown(package)
    version, valid = model.specificationVersion, specification_versions()
    if version not in valid:
        raise PackageError(
            f"{where} has version {version} of Core ML's specification; ML Programs of {valid[0]} to "
            f"{valid[-1]} are read."
        )
    functions = model.mlProgram.functions
    if not functions:
        raise PackageError(f"{where} is damaged: its program has no functions.")
    _check_description(model, where)
    for name in functions:
        _Function(name, functions[name], where, weights).check()


def interfaces(model: Any) -> dict[str, Any]:
    """What describes the inputs and outputs of each function, the default one first.

    Args:
        model: A `Model` message with an `mlProgram`.

    Returns:
        By name, the `ModelDescription` of a program of one function, or the `FunctionDescription` of each of several.
    """
    description = model.description
    if not description.functions:
        names = list(model.mlProgram.functions)
        return {"main" if "main" in names else names[0]: description}
    default = description.defaultFunctionName or description.functions[0].name
    described = {function.name: function for function in description.functions}
    return {default: described[default], **described}


def _check_description(model: Any, where: str) -> None:
    description, functions = model.description, sorted(model.mlProgram.functions)
    names = [function.name for function in description.functions]
    default = description.defaultFunctionName
    if description.functions and default and default not in names:
        raise PackageError(
            f"{where} is damaged: its default function {default!r} is not described{did_you_mean(default, names)} It "
            f"describes {_listed(names)}."
        )
    if not description.functions and len(functions) > 1 and "main" not in functions:
        raise PackageError(
            f"{where} is damaged: it describes none of its functions, {_listed(functions)}, and none is 'main'."
        )
    for name, interface in interfaces(model).items():
        if name not in functions:
            raise PackageError(
                f"{where} is damaged: it describes a function {name!r} that its program does not have; it has "
                f"{_listed(functions)}."
            )
        _check_interface(name, interface, model.mlProgram.functions[name], where)


def _check_interface(name: str, interface: Any, function: Any, where: str) -> None:
    described = [feature.name for feature in interface.input]
    taken = [item.name for item in function.inputs if item.type.WhichOneof("type") != "stateType"]
    if sorted(described) != sorted(taken):
        raise PackageError(
            f"{where} is damaged: it describes the inputs {_listed(described)} of function {name!r}, which takes "
            f"{_listed(taken)}."
        )


class _Function:
    """One function of a program, checked from its inputs to its outputs."""

    def __init__(self, name: str, function: Any, where: str, weights: WeightFiles) -> None:
        self.function = function
        self.where = f"function {name!r} of {where}"
        self.weights = weights

    def check(self) -> None:
        """Raise unless everything that is used was made before, and is of a type that can be."""
        if self.function.opset not in self.function.block_specializations:
            raise self._damaged(f"it has no block for its operation set {self.function.opset!r}")
        names = set()
        for item in self.function.inputs:
            if item.name in names or not item.name:
                raise self._damaged(f"it takes the input {item.name!r} twice, or without a name")
            self._check_type(item.type, f"its input {item.name!r}")
            names.add(item.name)
        self._check_block(self.function.block_specializations[self.function.opset], names)

    def _check_block(self, block: Any, names: set[str]) -> None:
        for operation in block.operations:
            self._check_operation(operation, names)
        if not block.outputs:
            raise self._damaged("a block of it returns nothing")
        for output in block.outputs:
            if output not in names:
                raise self._damaged(f"it returns {output!r}, which no operation makes")

    def _check_operation(self, operation: Any, names: set[str]) -> None:
        made = [output.name for output in operation.outputs]
        where = f"operation {made[0]!r}" if made and made[0] else "an operation"
        where = f"{where} of type {operation.type!r}"
        if operation.type != "write_state" and (not made or not all(made)):
            raise self._damaged(f"{where} has no outputs, or one without a name")
        for parameter in operation.inputs:
            self._check_operand(operation.inputs[parameter], f"operand {parameter!r} of {where}", names)
        for value in values_of(operation):
            self._check_value(value, where, made[0] if made else operation.type)
        if operation.type == "const" and "val" not in operation.attributes:
            raise self._damaged(f"{where} has no value")
        if len(operation.blocks) != _BLOCKS.get(operation.type, 0):
            raise self._damaged(f"{where} has {len(operation.blocks)} nested blocks")
        for block in operation.blocks:
            inner = [item.name for item in block.inputs]
            for item in block.inputs:
                self._check_type(item.type, f"input {item.name!r} of a block of {where}")
            self._check_block(block, names | set(inner))
        for output in operation.outputs:
            self._check_type(output.type, f"output {output.name!r} of {where}")
        names.update(made)

    def _check_operand(self, argument: Any, where: str, names: set[str]) -> None:
        if not argument.arguments:
            raise self._damaged(f"{where} has no value")
        for binding in argument.arguments:
            kind = binding.WhichOneof("binding")
            if kind is None:
                raise self._damaged(f"{where} has no value")
            if kind == "name" and binding.name not in names:
                raise self._damaged(f"{where} is {binding.name!r}, which nothing before it makes")

    def _check_value(self, value: Any, where: str, name: str) -> None:
        kind = value.WhichOneof("value")
        if kind is None:
            raise self._damaged(f"a value of {where} is empty")
        self._check_type(value.type, f"a value of {where}", fixed=True)
        if kind == "blobFileValue":
            self.weights.check(value, name)
            return
        immediate = value.immediateValue
        if immediate.WhichOneof("value") is None:
            raise self._damaged(f"a value of {where} is empty")
        for item in immediate.list.values:
            self._check_value(item, where, name)
        if immediate.WhichOneof("value") == "tensor":
            self._check_count(value.type.tensorType, immediate.tensor, where)

    def _check_count(self, declared: Any, tensor: Any, where: str) -> None:
        kind = tensor.WhichOneof("value")
        if kind is None:
            raise self._damaged(f"a value of {where} is empty")
        shape = [dimension.constant.size for dimension in declared.dimensions]
        values, needed = getattr(tensor, kind).values, math.prod(shape)
        builtin = types.PROTO_TO_BUILTIN_TYPE[declared.dataType]
        if (kind == "bytes") != (builtin in types.IMMEDIATE_VALUE_TYPES_IN_BYTES):
            raise self._damaged(
                f"a value of {where} is of type {types.builtin_to_string(builtin)}, given as {kind}"
            )
        if kind == "bytes":
            needed = -(-needed * builtin.get_bitwidth() // 8)
        if len(values) != needed:
            raise self._damaged(
                f"a value of {where} of shape {shape} needs {needed} {'bytes' if kind == 'bytes' else 'values'}, and "
                f"{len(values)} are there"
            )

    def _check_type(self, declared: Any, where: str, *, fixed: bool = False) -> None:
        kind = declared.WhichOneof("type")
        if kind == "listType":
            self._check_type(declared.listType.type, where)
        elif kind == "stateType":
            self._check_type(declared.stateType.wrappedType, where, fixed=True)
        elif kind == "dictionaryType":
            self._check_type(declared.dictionaryType.keyType, where)
            self._check_type(declared.dictionaryType.valueType, where)
        elif kind == "tensorType":
            self._check_tensor_type(declared.tensorType, where, fixed)
        else:
            raise self._damaged(f"{where} has {'no type' if kind is None else f'the type {kind!r}'}")

    def _check_tensor_type(self, tensor: Any, where: str, fixed: bool) -> None:
        if tensor.dataType not in types.PROTO_TO_BUILTIN_TYPE:
            raise self._damaged(f"{where} has numbers of the unknown type {tensor.dataType}")
        if tensor.rank != len(tensor.dimensions):
            raise self._damaged(f"{where} has the rank {tensor.rank} and {len(tensor.dimensions)} dimensions")
        sizes = []
        for dimension in tensor.dimensions:
            kind = dimension.WhichOneof("dimension")
            if (
                kind is None
                or (fixed and kind != "constant")
                or (kind == "unknown" and dimension.unknown.variadic)
            ):
                raise self._damaged(f"{where} has a dimension without a size")
            if kind == "constant":
                sizes.append(dimension.constant.size)
        if max([*sizes, 0]) > _LARGEST_TENSOR or math.prod(sizes) > _LARGEST_TENSOR:
            raise self._damaged(
                f"{where} has the shape {sizes}; a tensor of more than {_LARGEST_TENSOR:,} elements is read by nobody"
            )

    def _damaged(self, what: str) -> PackageError:
        return PackageError(f"{self.where[0].upper()}{self.where[1:]} is damaged: {what}.")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
