"""What a MIL function is lowered to: torch calls on numbered slots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Step:
    """One call: a torch function, the slots of its tensors by parameter, its attributes, and where results go.

    Attributes:
        types: torch type of each result as the program types it; None for what is not a tensor.
        frees: slots whose values nobody needs after this step.
        blocks: the branches of a condition, or the test and the body of a loop.
        new_memory: see `OpDefinition`.
        overwriting: computes the same in the memory of an operand; None where that is still needed.
    """

    op_type: str
    name: str
    function: Callable[..., Any]
    operands: tuple[tuple[str, int | tuple[int, ...]], ...]
    attributes: dict[str, Any]
    results: tuple[int, ...]
    types: tuple[torch.dtype | None, ...]
    exact: bool
    new_memory: bool
    frees: tuple[int, ...] = ()
    blocks: tuple[Block, ...] = ()
    overwriting: Callable[..., Any] | None = None

    def used(self) -> list[int]:
        """The slots that the step needs, those that its blocks take from outside included."""
        slots = [
            slot for _, slots in self.operands for slot in (slots if isinstance(slots, tuple) else (slots,))
        ]
        for block in self.blocks:
            inside = {*block.inputs, *(slot for step in block.steps for slot in step.results)}
            needed = [slot for step in block.steps for slot in step.used()]
            slots += [slot for slot in (*needed, *block.outputs) if slot not in inside]
        return slots


@dataclass(frozen=True)
class Block:
    """Steps that a condition or a loop runs, with the slots that they start from and end in."""

    inputs: tuple[int, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Leaf:
    """A stored constant: `owner` is the compressed weight that it is a part of, or empty for a plain constant."""

    slot: int
    owner: str
    name: str
    value: Tensor


@dataclass(frozen=True)
class Output:
    """An output of the program.

    Attributes:
        batched: samples stacked along axis 0 of the inputs come out stacked along its axis 0.
        label: it is the position of a classifier's most probable label.
    """

    name: str
    slot: int
    shape: Shape
    type: torch.dtype
    batched: bool
    label: bool


@dataclass(frozen=True)
class Program:
    """A lowered function.

    Attributes:
        slots: how many slots a run needs.
        inputs: the slot of each input, by name, in order.
        states: the slot, type and shape of each state, by name.
        input_types: torch type and shape of each input.
        outputs: the outputs, in order.
        leaves: stored constants.
        decompress: steps that turn compressed constants into dense ones, computed as the program types them.
        folded: steps that depend on constants alone, computed once.
        steps: the rest.
        weights: slot of every weight that the program computes with, dense and as typed, by name.
        stackable: samples may be stacked along axis 0.
        traceable: `torch.vmap` can follow all steps.
        class_labels: labels of a classifier, else None.
    """

    slots: int
    inputs: dict[str, int]
    input_types: dict[str, tuple[torch.dtype, Shape]]
    states: dict[str, tuple[int, torch.dtype, tuple[int, ...]]]
    outputs: tuple[Output, ...]
    leaves: tuple[Leaf, ...]
    decompress: tuple[Step, ...]
    folded: tuple[Step, ...]
    steps: tuple[Step, ...]
    weights: dict[str, int]
    stackable: bool
    traceable: bool
    class_labels: tuple[Any, ...] | None
