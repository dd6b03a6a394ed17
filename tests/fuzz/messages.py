"""Mutations of a specification: of any field of its messages, and of those that readers lean on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

TEXTS = [
    "",
    "main",
    "no such name",
    "a" * 5000,
    "\x1b[31m[red]</b>",
    "../../x",
    "nul\0",
    "..",
    "@model_path/weights/none.bin",
    "conv",
    "const",
    "while_loop",
    "ünïcødé 猫",
]
NUMBERS = [0, 1, -1, 2, 3, 7, 64, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, -(2**63), 2**64 - 1]
_TYPES = [
    *("const", "conv", "linear", "reshape", "fill", "tile"),
    *("cond", "while_loop", "classify", "concat", "constexpr_lut_to_dense", "random_normal"),
    *("constexpr_blockwise_shift_scale", "list_read", "add", "matmul", "pad", "transpose"),
    *("range_1d", "one_hot", "gather", "read_state"),
]
FLOATS = [0.0, -1.0, 1e-40, 1e38, 1e300, float("nan"), float("inf"), float("-inf")]


def mutate_message(specification: Any, chance: random.Random) -> str:
    """Change one field of a random message of a specification, in place.

    Returns:
        What was done.
    """
    if chance.random() < 0.5:
        described = _targeted(specification, chance)
        if described:
            return described
    owners = [message for message in _messages(specification) if message.DESCRIPTOR.fields]
    for _ in range(20):
        message = chance.choice(owners)
        described = _mutate_field(message, chance.choice(message.DESCRIPTOR.fields), chance)
        if described:
            return f"{message.DESCRIPTOR.name}.{described}"
    return "nothing"


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _is_repeated(field: Any) -> bool:
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if _is_map(field):
            if field.message_type.fields_by_name["value"].message_type is not None:
                for key in list(value):
                    yield from _messages(value[key])
        elif _is_repeated(field):
            for item in value:
                yield from _messages(item)
        else:
            yield from _messages(value)


def _mutate_field(message: Any, field: Any, chance: random.Random) -> str:
    name = field.name
    value = getattr(message, name)
    if _is_map(field):
        return _mutate_map(value, name, field, chance)
    if _is_repeated(field):
        return _mutate_list(value, name, field, chance)
    if field.message_type is not None:
        if message.HasField(name) and chance.random() < 0.7:
            message.ClearField(name)
            return f"{name} cleared"
        value.SetInParent()
        return f"{name} set empty"
    setattr(message, name, _scalar(field, chance))
    return f"{name} = {getattr(message, name)!r:.60}"


def _mutate_map(value: Any, name: str, field: Any, chance: random.Random) -> str:
    keys = sorted(value)
    holds_messages = field.message_type.fields_by_name["value"].message_type is not None
    if keys and chance.random() < 0.5:
        key = chance.choice(keys)
        del value[key]
        return f"{name}[{key!r:.40}] removed"
    new = chance.choice(TEXTS)
    if holds_messages:
        value[new].SetInParent()
        if keys and chance.random() < 0.7:
            source = chance.choice(keys)
            value[new].CopyFrom(value[source])
            if chance.random() < 0.6 and new != source:
                del value[source]
            return f"{name}[{source!r:.40}] moved or copied to {new!r:.40}"
    else:
        value[new] = chance.choice(TEXTS)
    return f"{name}[{new!r:.40}] added"


def _mutate_list(value: Any, name: str, field: Any, chance: random.Random) -> str:
    kind = chance.random()
    if len(value) and kind < 0.35:
        index = chance.randrange(len(value))
        del value[index]
        return f"{name}[{index}] removed"
    if len(value) > 1 and kind < 0.5:
        one, other = chance.sample(range(len(value)), 2)
        if field.message_type is None:
            value[one], value[other] = value[other], value[one]
        else:
            value[one].CopyFrom(value[other])
        return f"{name}[{one}] exchanged for or copied from [{other}]"
    if len(value) and kind < 0.65:
        del value[:]
        return f"{name} emptied"
    if field.message_type is not None:
        added = value.add()
        if len(value) > 1 and kind < 0.85:
            added.CopyFrom(value[chance.randrange(len(value) - 1)])
        return f"{name} with one more"
    if len(value) and kind < 0.85:
        index = chance.randrange(len(value))
        value[index] = _scalar(field, chance)
        return f"{name}[{index}] = {value[index]!r:.60}"
    value.append(_scalar(field, chance))
    return f"{name} with {value[-1]!r:.60} more"


def _scalar(field: Any, chance: random.Random) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        text = chance.choice(TEXTS)
        return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return chance.choice(FLOATS)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return chance.choice([*field.enum_type.values_by_number, 999])
    low, high = {
        FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
        FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
        FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
        FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    }[kind]
    return min(max(chance.choice(NUMBERS), low), high)


def _programs(specification: Any) -> list[Any]:
    kind = specification.WhichOneof("Type")
    if kind == "mlProgram":
        return [specification.mlProgram]
    if kind == "pipeline":
        return [program for model in specification.pipeline.models for program in _programs(model)]
    return []


def _blocks(program: Any) -> list[Any]:
    return [
        function.block_specializations[name]
        for function in program.functions.values()
        for name in function.block_specializations
    ]


def _all_blocks(specification: Any) -> list[Any]:
    return [block for program in _programs(specification) for block in _blocks(program)]


def _targeted(specification: Any, chance: random.Random) -> str:
    """What a reader leans on most: functions, blocks, names, types, blobs, dimensions."""
    try:
        return chance.choice(_TARGETED)(specification, chance)
    # Earlier changes may have left nothing to choose from.
    except IndexError:
        return ""


def _drop_functions(specification: Any, chance: random.Random) -> str:
    for program in _programs(specification):
        for name in list(program.functions):
            if chance.random() < 0.7:
                del program.functions[name]
    return "functions dropped"


def _rename_function(specification: Any, chance: random.Random) -> str:
    for program in _programs(specification):
        name, new = sorted(program.functions)[0], chance.choice(TEXTS)
        program.functions[new].CopyFrom(program.functions[name])
        if new != name:
            del program.functions[name]
    return "function renamed"


def _drop_blocks(specification: Any, chance: random.Random) -> str:
    for program in _programs(specification):
        for function in program.functions.values():
            function.block_specializations.clear()
    return "blocks dropped"


def _drop_outputs(specification: Any, chance: random.Random) -> str:
    for block in _all_blocks(specification):
        del block.outputs[:]
        if chance.random() < 0.5:
            block.outputs.append(chance.choice(TEXTS))
    return "outputs of blocks dropped or renamed"


def _retype(specification: Any, chance: random.Random) -> str:
    blocks = [block for block in _all_blocks(specification) if block.operations]
    operation = chance.choice(chance.choice(blocks).operations)
    operation.type = chance.choice(["", "x", "custom_layer", *_TYPES])
    return f"an operation became {operation.type!r}"


def _shift_blob(specification: Any, chance: random.Random) -> str:
    blobs = [
        message
        for message in _messages(specification)
        if message.DESCRIPTOR.name == "BlobFileValue" and message.fileName
    ]
    if not blobs:
        return ""
    blob = chance.choice(blobs)
    if chance.random() < 0.5:
        other = chance.choice(blobs)
        blob.offset = chance.choice([other.offset, blob.offset + 1, blob.offset + 64, *NUMBERS[-8:-2], 2**62])
        return f"blob at {blob.offset}"
    blob.fileName = chance.choice([*TEXTS, "@model_path/weights/../model.mlmodel", "weights", "/etc/passwd"])
    return f"blob in {blob.fileName!r:.60}"


def _stretch(specification: Any, chance: random.Random) -> str:
    dimensions = [
        message for message in _messages(specification) if message.DESCRIPTOR.name == "ConstantDimension"
    ]
    dimension = chance.choice(dimensions)
    dimension.size = chance.choice([0, 1, 5, 2**20, 2**31, 2**40, 2**62, 2**64 - 1])
    return f"a dimension of {dimension.size}"


def _change_number(specification: Any, chance: random.Random) -> str:
    """Integers of constants say shapes, strides, axes, groups, repetitions."""
    lists = [
        message.values
        for message in _messages(specification)
        if message.DESCRIPTOR.name in ("RepeatedInts", "RepeatedLongInts") and len(message.values)
    ]
    values = chance.choice(lists)
    index = chance.randrange(len(values))
    values[index] = chance.choice([-(2**31), -7, -1, 0, 1, 2, 3, 5, 100, 10**6, 10**9, 2**31 - 1])
    return f"an integer became {values[index]}"


def _rebind(specification: Any, chance: random.Random) -> str:
    blocks = [block for block in _all_blocks(specification) if block.operations]
    block = chance.choice(blocks)
    bindings = [
        binding
        for operation in block.operations
        for argument in operation.inputs.values()
        for binding in argument.arguments
        if binding.WhichOneof("binding") == "name"
    ]
    names = [output.name for operation in block.operations for output in operation.outputs]
    if not bindings:
        return ""
    chance.choice(bindings).name = chance.choice([*names, *TEXTS])
    return "an operand became another"


def _rename_feature(specification: Any, chance: random.Random) -> str:
    features = [
        message for message in _messages(specification) if message.DESCRIPTOR.name == "FeatureDescription"
    ]
    chance.choice(features).name = chance.choice(TEXTS)
    return "a feature was renamed"


def _nest(specification: Any, chance: random.Random) -> str:
    """Blocks in blocks, or pipelines in pipelines, deeper than a reader may recurse."""
    if specification.WhichOneof("Type") == "pipeline":
        model = specification.pipeline.models[0]
        for _ in range(60):
            wrapped = type(specification)()
            wrapped.specificationVersion = 7
            wrapped.pipeline.models.add().CopyFrom(model)
            model = wrapped
        specification.pipeline.models[0].CopyFrom(model)
        return "pipelines in pipelines"
    block = chance.choice(_all_blocks(specification))
    for _ in range(25):
        operation = block.operations.add()
        operation.type = chance.choice(["cond", "while_loop"])
        block = operation.blocks.add()
    return "blocks in blocks"


def _multiply(specification: Any, chance: random.Random) -> str:
    block = chance.choice(_all_blocks(specification))
    operation = block.operations[0]
    for _ in range(300):
        block.operations.add().CopyFrom(operation)
    return "one operation 300 times"


_TARGETED: list[Callable[[Any, random.Random], str]] = [
    _drop_functions,
    _rename_function,
    _drop_blocks,
    _drop_outputs,
    _retype,
    _retype,
    _shift_blob,
    _shift_blob,
    _stretch,
    _stretch,
    _change_number,
    _change_number,
    _rebind,
    _rebind,
    _rename_feature,
    _nest,
    _multiply,
]
