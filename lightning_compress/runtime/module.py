"""The torch module that runs a lowered program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_compress.errors import PackageError
from lightning_compress.runtime.execution import Arithmetic, execute
from lightning_compress.runtime.interface import FLOATS, ProgramInput, bind
from lightning_compress.runtime.loops import MAX_ITERATIONS, Iterations
from lightning_compress.runtime.overwriting import may_overwrite
from lightning_compress.runtime.program import Leaf, Output, Program, Shape

Precision = Literal["float32", "float16"]


class CoreMLProgram(nn.Module):
    """A Core ML program as an ordinary torch module.

    Call it with the program's inputs, by position or by name; it returns a dictionary of outputs by name, in the
    program's order. Several samples may be stacked along axis 0 of the inputs even where the package was converted
    for one; outputs are then stacked along axis 0 too (an output whose own axis 0 is that single sample grows,
    any other gets a new axis in front). Programs that treat axis 0 as a batch run once; others run through
    `torch.vmap`, or sample by sample where that is not possible.

    Images are tensors [N, 3, H, W] (or [N, 1, H, W]) of pixel values from 0 to 255, float or uint8, always in RGB
    order: a package with the BGR layout gets its channels reordered, as Core ML does with a pixel buffer.

    A stateful program keeps its states in buffers (`states`, not saved) from call to call, until `reset_states`; it
    takes one sample at a time.

    A classifier returns its most probable label for each sample as a list, and its probabilities as a tensor
    [N, classes] in the order of `class_labels`.

    Constants are buffers in their stored form (a palettized weight `w` as `constants.w.indices` and
    `constants.w.lut`, and so on), so `state_dict()` holds LUTs and indices. Dense weights are made from them at the
    first run on a device, and kept outside of the state; `to`, `load_state_dict` and pickling drop them.

    `load` makes it.

    Args:
        program: the lowered program.
        inputs: what is checked before it runs.
        precision: "float32" or "float16".
        package: what errors call it.

    Attributes:
        inputs: the inputs, in order.
        output_names: names of the outputs, in order.
        class_labels: the labels of a classifier, else None.
        precision: "float32" or "float16".
        max_iterations: how many iterations all loops of one call may take together; `load` sets it.
    """

    def __init__(
        self, program: Program, inputs: Sequence[ProgramInput], precision: Precision, package: str
    ) -> None:
        super().__init__()
        self.inputs = tuple(inputs)
        self.output_names = tuple(output.name for output in program.outputs)
        self.class_labels = program.class_labels
        self.precision = precision
        self.package = package
        self.max_iterations = MAX_ITERATIONS
        self.constants = nn.Module()
        self._owners: dict[str, str] = {}
        self._leaf_paths = {leaf.slot: self._store(leaf) for leaf in program.leaves}
        self._program = replace(program, leaves=())
        self.states = nn.Module()
        self._state_paths: dict[int, str] = {}
        for name, (slot, dtype, shape) in program.states.items():
            key = _attribute_name(self.states, name)
            held = torch.float32 if precision == "float32" and dtype.is_floating_point else dtype
            self.states.register_buffer(key, torch.zeros(shape, dtype=held), persistent=False)
            self._state_paths[slot] = f"states.{key}"
        self._template: list[Any] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Run the program.

        Returns:
            The outputs by name: tensors, or a list of labels for the label of a classifier.

        Raises:
            PackageError: when an input has the wrong name, type or shape, or a loop does not end.
        """
        values = bind(self.inputs, args, kwargs, self.package)
        counts = [item.samples(value, self.package) for item, value in zip(self.inputs, values, strict=True)]
        samples = max(counts, default=1)
        if samples > 1 and self._state_paths:
            raise PackageError(
                f"{self.package} keeps a state from call to call; give it one sample at a time."
            )
        with torch.autocast(self._device.type, enabled=False):
            tensors = [self._prepare(item, value) for item, value in zip(self.inputs, values, strict=True)]
            if samples == 1:
                results = self._run(*tensors)
            elif self._program.stackable:
                results = self._run_stacked(tensors, counts, samples)
            else:
                results = self._run_separately(tensors, counts, samples)
        return dict(zip(self.output_names, map(self._present, self._program.outputs, results), strict=True))

    def reset_states(self) -> None:
        """Set every state of a stateful program back to zeros, as a new Core ML state is."""
        for state in self.states.buffers():
            state.zero_()

    def decompressed_weights(self) -> dict[str, Tensor]:
        """Every floating-point weight that the program computes with, by its name there: dense, in its stored type."""
        stored = self._stored()
        return {name: stored[slot] for name, slot in self._program.weights.items()}

    @property
    def batching(self) -> Literal["at once", "vmap", "one by one"]:
        """How several samples are run: at once, through `torch.vmap`, or one by one."""
        if self._program.stackable:
            return "at once"
        return "vmap" if self._program.traceable else "one by one"

    def extra_repr(self) -> str:
        """The interface of the package, for `print`."""
        names = ", ".join(f"{item.name}: {item}" for item in self.inputs)
        return f"{self.package}; inputs {names}; outputs {', '.join(self.output_names)}; {self.precision}"

    @property
    def _device(self) -> torch.device:
        return next((buffer.device for buffer in self.buffers()), torch.device("cpu"))

    @property
    def _arithmetic(self) -> Arithmetic:
        if self.precision == "float32":
            return Arithmetic.FLOAT32
        return Arithmetic.ROUNDED if self._device.type == "cpu" else Arithmetic.TYPED

    def _store(self, leaf: Leaf) -> str:
        """Register a constant as a buffer and return the path to it."""
        holder, path = self.constants, "constants"
        if leaf.owner:
            key = self._owners.get(leaf.owner)
            if key is None:
                key = self._owners[leaf.owner] = _attribute_name(holder, leaf.owner)
                holder.add_module(key, nn.Module())
            holder, path = holder.get_submodule(key), f"{path}.{key}"
        key = _attribute_name(holder, leaf.name)
        holder.register_buffer(key, leaf.value)
        return f"{path}.{key}"

    def _prepare(self, item: ProgramInput, value: Tensor) -> Tensor:
        if item.color == "BGR":
            value = value.flip(1)
        if item.dtype not in FLOATS:
            return value.to(item.dtype)
        if item.dtype is torch.float16 and self.precision == "float16":
            value = value.to(torch.float16)
            return value.float() if value.device.type == "cpu" else value
        return value.to(torch.float32)

    def _run(self, *tensors: Tensor) -> list[Any]:
        values = self._filled_template()
        for slot, tensor in zip(self._program.inputs.values(), tensors, strict=True):
            values[slot] = tensor
        for slot, path in self._state_paths.items():
            values[slot] = self.get_buffer(path)
        execute(
            self._program.steps,
            values,
            self._arithmetic,
            overwrite=may_overwrite(),
            iterations=Iterations(self.max_iterations),
        )
        return [values[output.slot] for output in self._program.outputs]

    def _run_stacked(self, tensors: list[Tensor], counts: list[int], samples: int) -> list[Any]:
        results = self._run(
            *(
                tensor.expand(samples, *tensor.shape[1:]) if count == 1 and item.may_stack else tensor
                for item, tensor, count in zip(self.inputs, tensors, counts, strict=True)
            )
        )
        return [
            result if output.batched else _merge(result.expand(samples, *result.shape), output.shape)
            for output, result in zip(self._program.outputs, results, strict=True)
        ]

    def _run_separately(self, tensors: list[Tensor], counts: list[int], samples: int) -> list[Any]:
        stacked = [
            tensor.unsqueeze(1) if count > 1 else tensor
            for tensor, count in zip(tensors, counts, strict=True)
        ]
        if self._program.traceable:
            self._filled_template()
            axes = tuple(0 if count > 1 else None for count in counts)
            results = torch.vmap(self._run, in_dims=axes, randomness="different")(*stacked)
        else:
            runs = [
                self._run(*(t[i] if count > 1 else t for t, count in zip(stacked, counts, strict=True)))
                for i in range(samples)
            ]
            results = [torch.stack(group) for group in zip(*runs, strict=True)]
        return [
            _merge(result, output.shape)
            for output, result in zip(self._program.outputs, results, strict=True)
        ]

    def _present(self, output: Output, result: Any) -> Any:
        if output.label and self.class_labels is not None:
            positions = result.reshape(-1).tolist()
            if max(positions, default=0) >= len(self.class_labels):
                raise PackageError(
                    f"{self.package} has {len(self.class_labels)} labels, and a probability for number "
                    f"{max(positions)}."
                )
            return [self.class_labels[position] for position in positions]
        if self.precision == "float16" and output.type is torch.float16:
            return result.to(torch.float16)
        return result

    def _stored(self) -> list[Any]:
        """Constants by slot, dense, in the types of the program."""
        values: list[Any] = [None] * self._program.slots
        for slot, path in self._leaf_paths.items():
            values[slot] = self.get_buffer(path)
        execute(self._program.decompress, values, Arithmetic.TYPED)
        return values

    def _filled_template(self) -> list[Any]:
        """Constants by slot, dense, as this precision computes with them; made once and kept."""
        if self._template is None:
            # Kept beyond this call, so they must be no inference tensors: autograd refuses those.
            with torch.inference_mode(False), torch.no_grad():
                values = [
                    self._arithmetic.hold(value) if isinstance(value, Tensor) else value
                    for value in self._stored()
                ]
                execute(self._program.folded, values, self._arithmetic)
            self._template = values
        return list(self._template)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CoreMLProgram:
        self._template = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._template = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_template": None}


def _merge(result: Any, shape: Shape) -> Any:
    """Fold the axis of samples into axis 0 of an output whose own axis 0 is that one sample."""
    return result.flatten(0, 1) if shape[:1] == (1,) else result


def _attribute_name(holder: nn.Module, name: str) -> str:
    """A name that `holder` can register: no dots, and none that it has or its class uses."""
    name = name.replace(".", "_")
    while not name or hasattr(holder, name):
        name += "_"
    return name
