"""Lower a MIL function to a flat list of torch calls on numbered slots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from coremltools.converters.mil.mil import types
from torch import Tensor

from lightning_compress.errors import PackageError
from lightning_compress.package.explaining import reason
from lightning_compress.runtime.ops.constexpr import modern_form
from lightning_compress.runtime.overwriting import overwrite
from lightning_compress.runtime.program import Block, Leaf, Output, Program, Shape, Step
from lightning_compress.runtime.registry import Call, OpDefinition, Operand, find

# What torch holds each MIL type in. Types of 16 and fewer unsigned bits that torch computes little or nothing with
# are held in the next wider one that it does.
TORCH_TYPES = {
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp64": torch.float64,
    "bool": torch.bool,
    "int4": torch.int8,
    "int8": torch.int8,
    "int16": torch.int32,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint1": torch.uint8,
    "uint2": torch.uint8,
    "uint3": torch.uint8,
    "uint4": torch.uint8,
    "uint6": torch.uint8,
    "uint8": torch.uint8,
    "uint16": torch.int32,
    "uint32": torch.int64,
}


def lower(function: Any) -> Program:
    """Lower a coremltools MIL function, as `milproto.load` returns it.

    Raises:
        PackageError: Naming the operation that the runtime has not, or that is not what it takes.
    """
    lowering = _Lowering(function)
    try:
        return lowering.lower()
    except PackageError:
        raise
    # coremltools' reader took the operation, but not all that it takes is what Core ML documents.
    except Exception as error:
        raise PackageError(f"{lowering.place} cannot be run: {reason(error)}") from error


@dataclass
class _Lowering:
    function: Any
    slots: dict[Any, int] = field(default_factory=dict)
    leaves: dict[int, Leaf] = field(default_factory=dict)
    decompress: list[Step] = field(default_factory=list)
    constants: set[int] = field(default_factory=set)
    definitions: dict[str, OpDefinition] = field(default_factory=dict)
    shapes: dict[int, Shape] = field(default_factory=dict)
    class_labels: tuple[Any, ...] | None = None
    label_slot: int | None = None
    place: str = "the program"

    def lower(self) -> Program:
        states = {name: var for name, var in self.function.inputs.items() if types.is_state(var.sym_type)}
        arguments = {name: var for name, var in self.function.inputs.items() if name not in states}
        inputs = {name: self._slot(var) for name, var in arguments.items()}
        steps = self._steps(self.function)
        outputs = {self._slot(var): var for var in self.function.outputs}
        self._constant_outputs(outputs)

        needed = set(outputs)
        steps = _reachable(steps, needed, keep="coreml_update_state")
        folded = [step for step in steps if self._fold(step)]
        steps = [step for step in steps if step not in folded]
        weights = self._weights([*folded, *steps])
        decompress = _reachable(self.decompress, needed)

        stackable, batched, steps = self._stack(steps, inputs)
        return Program(
            slots=len(self.slots),
            inputs=inputs,
            input_types={name: (_type(var), _shape(var)) for name, var in arguments.items()},
            states={name: self._state(var) for name, var in states.items()},
            outputs=tuple(
                Output(
                    var.name, slot, self.shapes[slot], _type(var), slot in batched, slot == self.label_slot
                )
                for slot, var in outputs.items()
            ),
            leaves=tuple(leaf for slot, leaf in self.leaves.items() if slot in needed),
            decompress=tuple(decompress),
            folded=tuple(folded),
            steps=overwrite(_free(steps, keep=set(outputs))),
            weights={name: slot for name, slot in weights.items() if slot in needed},
            stackable=stackable,
            traceable=all(definition.traceable for definition in self.definitions.values()),
            class_labels=self.class_labels,
        )

    def _steps(self, block: Any) -> list[Step]:
        """The steps of a function or of a nested block, compressed constants set apart."""
        steps: list[Step] = []
        for operation in block.operations:
            if operation.op_type == "const":
                continue
            self.place = f"operation {operation.name!r} of type {operation.op_type!r}"
            step = self._step(operation)
            if operation.op_type.startswith("constexpr_"):
                self.constants.update(step.results)
                self.decompress.append(step)
            else:
                steps.append(step)
        return steps

    def _block(self, block: Any) -> Block:
        inputs = tuple(self._slot(var) for var in block.inputs)
        steps = tuple(self._steps(block))
        return Block(inputs, steps, tuple(self._operand(var, "", "") for var in block.outputs))

    def _state(self, var: Any) -> tuple[int, torch.dtype, tuple[int, ...]]:
        held = var.sym_type.wrapped_type()
        dtype = TORCH_TYPES[types.builtin_to_string(held.get_primitive())]
        return self._slot(var), dtype, tuple(int(size) for size in held.get_shape())

    def _slot(self, var: Any) -> int:
        if var not in self.slots:
            slot = len(self.slots)
            self.slots[var] = slot
            self.shapes[slot] = _shape(var)
        return self.slots[var]

    def _step(self, operation: Any) -> Step:
        definition = find(operation.op_type)
        if definition is None:
            raise PackageError(f"The op {operation.op_type!r} is not supported.")
        self.definitions[operation.op_type] = definition
        owner = operation.outputs[0].name if operation.op_type.startswith("constexpr_") else ""
        operands: list[tuple[str, int | tuple[int, ...]]] = []
        attributes: dict[str, Any] = {}
        for parameter, value in operation.inputs.items():
            if value is None or parameter.startswith("_"):
                continue
            several = isinstance(value, (tuple, list))
            group = list(value) if several else [value]
            fixed = all(var.val is not None for var in group)
            if fixed and parameter not in definition.tensors:
                values = [_python_value(var.val) for var in group]
                attributes[parameter] = values if several else values[0]
                continue
            slots = tuple(self._operand(var, owner, parameter) for var in group)
            operands.append((parameter, slots if several else slots[0]))
        if owner:
            self._modernize(operation, operands, attributes)
        results = tuple(self._slot(var) for var in operation.outputs)
        if operation.op_type == "classify":
            self.class_labels = tuple(attributes["classes"])
            self.label_slot = results[0]
            probabilities = _shape(operation.inputs["probabilities"])
            if not probabilities or probabilities[-1] not in (None, len(self.class_labels)):
                raise PackageError(
                    f"{self.place} has {len(self.class_labels)} labels for probabilities of shape {list(probabilities)}"
                )
            self.shapes[results[0]], self.shapes[results[1]] = probabilities[:-1], probabilities
        return Step(
            op_type=operation.op_type,
            name=operation.name,
            function=definition.function,
            operands=tuple(operands),
            attributes=attributes,
            results=results,
            types=tuple(_type(var) if _is_tensor(var) else None for var in operation.outputs),
            exact=definition.exact,
            new_memory=definition.new_memory,
            blocks=tuple(self._block(block) for block in operation.blocks),
        )

    def _modernize(
        self, operation: Any, operands: Iterable[tuple[str, Any]], attributes: dict[str, Any]
    ) -> None:
        leaves = {parameter: self.leaves[slot] for parameter, slot in operands if slot in self.leaves}
        stored = {parameter: leaf.value for parameter, leaf in leaves.items()}
        for parameter, value in modern_form(operation.op_type, stored, attributes).items():
            leaf = leaves[parameter]
            self.leaves[leaf.slot] = replace(leaf, value=value)

    def _constant_outputs(self, outputs: dict[int, Any]) -> None:
        for var in outputs.values():
            self._operand(var, "", "")

    def _operand(self, var: Any, owner: str, parameter: str) -> int:
        slot = self._slot(var)
        if var.op is not None and var.op.op_type == "const" and slot not in self.leaves:
            self.leaves[slot] = Leaf(
                slot, owner, parameter if owner else var.name, _tensor(var.val, _type(var))
            )
            self.constants.add(slot)
        return slot

    def _fold(self, step: Step) -> bool:
        constant = all(slot in self.constants for slot in step.used())
        constant = constant and not step.blocks and not step.op_type.startswith("random_")
        if constant:
            self.constants.update(step.results)
        return constant

    def _weights(self, steps: Iterable[Step]) -> dict[str, int]:
        """Constants of one axis and more, floating point, that steps compute with."""
        names = {slot: var.name for var, slot in self.slots.items()}
        types_ = {slot: _type(var) for var, slot in self.slots.items() if _is_tensor(var)}
        made = {slot for step in steps for slot in step.results}
        return {
            names[slot]: slot
            for step in steps
            for slot in step.used()
            if slot in self.constants - made and self.shapes[slot] and types_[slot].is_floating_point
        }

    def _stack(self, steps: list[Step], inputs: dict[str, int]) -> tuple[bool, set[int], list[Step]]:
        """Whether samples may be stacked, which slots then hold stacks, and the steps for it."""
        batched = {slot for slot in inputs.values() if self.shapes[slot][:1] == (1,)}
        if not batched:
            return False, batched, steps
        rewritten = []
        for step in steps:
            if not any(slot in batched for slot in step.used()):
                rewritten.append(step)
                continue
            definition = self.definitions[step.op_type]
            results = tuple(self.shapes[slot] for slot in step.results)
            call = Call(
                {
                    parameter: tuple(Operand(self.shapes[slot], slot in batched) for slot in _as_tuple(slots))
                    for parameter, slots in step.operands
                },
                step.attributes,
                results,
            )
            one_sample = all(shape[:1] == (1,) for shape in results)
            if not one_sample or not definition.samplewise(call):
                return False, set(), steps
            batched.update(step.results)
            if definition.unfixed is not None:
                step = replace(step, attributes=definition.unfixed(dict(step.attributes)))
            rewritten.append(step)
        return True, batched, rewritten


def _reachable(steps: Sequence[Step], needed: set[int], keep: str = "") -> list[Step]:
    """The steps that lead to the needed slots, and those of the op type `keep`, in order.

    `needed` grows by the slots that they use.
    """
    kept = []
    for step in reversed(steps):
        if needed.intersection(step.results) or step.op_type == keep:
            needed.update(step.used())
            kept.append(step)
    return kept[::-1]


def _free(steps: Sequence[Step], keep: set[int]) -> tuple[Step, ...]:
    """Let each step free the slots that were filled by steps and are not used after it."""
    kept = set(keep)
    made = {slot for step in steps for slot in step.results}
    freed = []
    for step in reversed(steps):
        used = {slot for slot in (*step.used(), *step.results) if slot in made}
        freed.append(replace(step, frees=tuple(used - kept)))
        kept |= used
    return tuple(freed[::-1])


def _as_tuple(slots: int | tuple[int, ...]) -> tuple[int, ...]:
    return slots if isinstance(slots, tuple) else (slots,)


def _is_tensor(var: Any) -> bool:
    return bool(types.is_tensor(var.sym_type) or types.is_scalar(var.sym_type))


def _shape(var: Any) -> Shape:
    if not _is_tensor(var):
        return ()
    return tuple(int(size) if isinstance(size, (int, np.integer)) else None for size in var.shape)


def _type(var: Any) -> torch.dtype:
    name = types.builtin_to_string(var.dtype)
    return TORCH_TYPES.get(name, torch.float32)


def _python_value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return [_python_value(item) for item in value.ls] if hasattr(value, "ls") else value


def _tensor(value: Any, dtype: torch.dtype) -> Tensor:
    # A copy in any case: what coremltools read may be a view of the mapped weight file.
    array = np.array(value)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    elif array.dtype.metadata:
        array = array.astype(np.dtype(array.dtype.str))
    return torch.from_numpy(array).to(dtype)
