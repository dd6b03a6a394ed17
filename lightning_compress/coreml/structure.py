"""What goes into a module and comes out of it, however nested, as the tensors of a package and their names."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.arguments import shown
from lightning_compress.errors import ConfigurationError, TraceError

ExampleInputs = Tensor | Sequence[Any] | Mapping[str, Any]
"""What a module is called with, as Lightning reads its `example_input_array`: one tensor, a tuple of its inputs by
position, or a dictionary of them by name. Inputs may be nested in turn; None, numbers and texts beside tensors become a
fixed part of the package."""

_Path = tuple[str | int, ...]

_FIXED = (bool, int, float, str, type(None))


def as_tuple(example_inputs: ExampleInputs) -> tuple[Tensor, ...]:
    """The tensors of example inputs, in order, on the CPU, with floats in float32.

    Raises:
        ConfigurationError: If there are none, or something is neither a tensor nor a fixed value.
    """
    tensors = [tensor for _, tensor in _tensors_in(example_inputs)]
    if not tensors:
        raise ConfigurationError(
            f"the example inputs {shown(example_inputs)} hold no tensor; tracing needs at least one, such as "
            "torch.zeros(1, 3, 224, 224)"
        )
    moved = [tensor.detach().to("cpu") for tensor in tensors]
    return tuple(tensor.float() if tensor.is_floating_point() else tensor.clone() for tensor in moved)


def first_of_batch(example_inputs: ExampleInputs) -> ExampleInputs:
    """The same example inputs with the first sample of each tensor alone."""
    tensors = [tensor[:1] if tensor.dim() else tensor for _, tensor in _tensors_in(example_inputs)]
    rebuilt: ExampleInputs = _rebuilt(example_inputs, iter(tensors))
    return rebuilt


def input_names(module: nn.Module, example_inputs: ExampleInputs) -> list[str]:
    """Names for the inputs: "input" for one, or else their keys and the names of forward's parameters."""
    paths = [path for path, _ in _tensors_in(example_inputs)]
    if isinstance(example_inputs, Mapping):
        return _names(paths, "input")
    if len(paths) == 1 and len(paths[0]) < 2:
        return ["input"]
    parameters = [
        parameter.name
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(parameters) < len(example_inputs):
        parameters = [f"input_{index}" for index in range(len(example_inputs))]
    return _names([(parameters[int(path[0])], *path[1:]) for path in paths], "input")


def by_position(module: nn.Module, example_inputs: ExampleInputs) -> nn.Module:
    """The module as one that takes the tensors of `example_inputs` by position.

    Args:
        module: A copy of one's own: its forward is exchanged where its inputs are not plain tensors by position.
        example_inputs: What it is called with.
    """
    if isinstance(example_inputs, Tensor):
        return module
    if not isinstance(example_inputs, Mapping) and all(isinstance(value, Tensor) for value in example_inputs):
        return module

    def call(forward: Callable[..., Any], *tensors: Tensor) -> Any:
        inputs = _rebuilt(example_inputs, iter(tensors))
        return forward(**inputs) if isinstance(inputs, Mapping) else forward(*inputs)

    return _with_forward(module, call)


class Arguments:
    """How a module is called: by position, by name, or both, as an export of it was.

    Args:
        module: The module.
        example_inputs: What it was exported with.

    Raises:
        ConfigurationError: Its forward does not take them.
    """

    def __init__(self, module: nn.Module, example_inputs: ExampleInputs) -> None:
        self.name = type(module).__name__
        self._signature = inspect.signature(module.forward)
        self._example = example_inputs
        arguments, named = as_call(example_inputs)
        self._expected = self._bound(arguments, named)
        # In the order of the package's inputs.
        self._order = list(named) if named else list(self._expected)

    def call(self, module: nn.Module) -> Any:
        """What a module returns for the example inputs."""
        arguments, named = as_call(self._example)
        return module(*arguments, **named)

    def tensors(self, arguments: Sequence[Any], named: Mapping[str, Any]) -> list[Tensor]:
        """The tensors of a call in the order of the package's inputs.

        Raises:
            ConfigurationError: The call lacks an input, or has one that the package has not.
        """
        given = self._bound(arguments, named)
        surplus = [
            name
            for name, value in given.items()
            if name not in self._expected and any(True for _ in _tensors_of(value))
        ]
        found = [tensor for name in self._order for tensor in _tensors_of(given.get(name))]
        needed = [tensor for name in self._order for tensor in _tensors_of(self._expected[name])]
        if surplus or len(found) != len(needed):
            problem = f"with {surplus}" if surplus else f"with {len(found)} tensors"
            raise ConfigurationError(
                f"{self.name} is called {problem}, and was exported with {len(needed)} tensors in {self._order}; "
                "example_input_array must hold what the network is called with in validation"
            )
        return found

    def _bound(self, arguments: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        try:
            bound = self._signature.bind(*arguments, **named)
        except TypeError as error:
            raise ConfigurationError(
                f"{self.name} cannot be called with its example inputs: {error}"
            ) from error
        kinds = {name: parameter.kind for name, parameter in self._signature.parameters.items()}
        flat: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            flat |= value if kinds[name] is inspect.Parameter.VAR_KEYWORD else {name: value}
        return flat


def as_call(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as the arguments of a call, by position and by name."""
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return tuple(example_inputs), {}


def _tensors_of(value: Any) -> list[Tensor]:
    return [tensor for _, tensor in _tensors_in(value)]


def take_apart(outputs: Any, name: str) -> list[Tensor]:
    """The tensors that a forward has returned, in order; None is left out.

    Args:
        outputs: A tensor, or tensors in tuples, lists, dictionaries and dataclasses, nested in any way.
        name: What errors call the module.

    Raises:
        TraceError: If there is anything else among them, or no tensor at all.
    """
    return [tensor for _, tensor in _outputs_in(outputs, name)]


def output_names(outputs: Any, name: str) -> list[str] | None:
    """Names of the tensors that a forward has returned: their keys, or None where none of them has one.

    Raises:
        TraceError: As `take_apart`.
    """
    paths = [path for path, _ in _outputs_in(outputs, name)]
    if not any(isinstance(key, str) for path in paths for key in path):
        return None
    return _names(paths, "output")


def returning_tensors(module: nn.Module, outputs: Any, name: str) -> nn.Module:
    """The module as one that returns a tensor or a tuple of tensors.

    Args:
        module: A copy of one's own: its forward is exchanged where it returns anything else.
        outputs: What it has returned.
        name: What errors call it.
    """
    flat = isinstance(outputs, tuple | list) and all(isinstance(output, Tensor) for output in outputs)
    if isinstance(outputs, Tensor) or flat:
        return module

    def call(forward: Callable[..., Any], *inputs: Any) -> Any:
        return tuple(take_apart(forward(*inputs), name))

    return _with_forward(module, call)


def _with_forward(module: nn.Module, call: Callable[..., Any]) -> nn.Module:
    """Put a function around the forward of a module, whose class and names of parameters stay what they are."""
    if isinstance(module, torch.jit.ScriptModule):
        return _Called(module, call).eval()
    kind = type(module)
    own = vars(module).pop("forward", None)

    def forward(self: nn.Module, *inputs: Any) -> Any:
        return call(kind.forward.__get__(self) if own is None else own, *inputs)

    module.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    return module


class _Called(nn.Module):
    """A module that lets nobody exchange its forward, behind one that does."""

    def __init__(self, module: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self.call = call

    def forward(self, *inputs: Any) -> Any:
        return self.call(self.module, *inputs)


def _tensors_in(example_inputs: Any, path: _Path = ()) -> Iterator[tuple[_Path, Tensor]]:
    if isinstance(example_inputs, Tensor):
        yield path, example_inputs
    elif isinstance(example_inputs, Mapping):
        for key, value in example_inputs.items():
            yield from _tensors_in(value, (*path, str(key)))
    elif isinstance(example_inputs, tuple | list):
        for index, value in enumerate(example_inputs):
            yield from _tensors_in(value, (*path, index))
    elif not isinstance(example_inputs, _FIXED):
        raise ConfigurationError(
            f"an example input is {shown(example_inputs)}; tracing needs a tensor, a tuple of tensors or a dictionary "
            "of tensors. Wrap the module (CoreMLExport's `wrapper`) if its forward takes anything else."
        )


def _rebuilt(example_inputs: Any, tensors: Iterator[Tensor]) -> Any:
    """The same structure with other tensors, in the same order."""
    if isinstance(example_inputs, Tensor):
        return next(tensors)
    if isinstance(example_inputs, Mapping):
        return {key: _rebuilt(value, tensors) for key, value in example_inputs.items()}
    if isinstance(example_inputs, tuple | list):
        parts = [_rebuilt(value, tensors) for value in example_inputs]
        if hasattr(example_inputs, "_fields"):
            return type(example_inputs)(*parts)
        return tuple(parts) if isinstance(example_inputs, tuple) else parts
    return example_inputs


def _outputs_in(outputs: Any, name: str) -> list[tuple[_Path, Tensor]]:
    found = list(_walk_outputs(outputs, name, ()))
    if not found:
        raise TraceError(f"{name} returns no tensor; a package needs at least one output")
    return found


def _walk_outputs(outputs: Any, name: str, path: _Path) -> Iterator[tuple[_Path, Tensor]]:
    if outputs is None:
        return
    if isinstance(outputs, Tensor):
        yield path, outputs
    elif isinstance(outputs, Mapping):
        for key, value in outputs.items():
            yield from _walk_outputs(value, name, (*path, key if isinstance(key, str | int) else str(key)))
    elif isinstance(outputs, tuple | list):
        for index, value in enumerate(outputs):
            yield from _walk_outputs(value, name, (*path, index))
    elif dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        for item in dataclasses.fields(outputs):
            yield from _walk_outputs(getattr(outputs, item.name), name, (*path, item.name))
    else:
        where = f" at {'.'.join(map(str, path))}" if path else ""
        raise TraceError(
            f"{name} returns {type(outputs).__name__}{where}; a package's outputs are tensors, or tuples, dictionaries "
            "and dataclasses of them. Give CoreMLExport a `wrapper` that picks the tensors to export."
        )


def _names(paths: Sequence[_Path], prefix: str) -> list[str]:
    """A name for each path: its last key where no other path ends in that, or else all of its keys."""
    last = [next((key for key in reversed(path) if isinstance(key, str)), None) for path in paths]
    return [
        key if key is not None and last.count(key) == 1 else _joined(path, prefix)
        for path, key in zip(paths, last, strict=True)
    ]


def _joined(path: _Path, prefix: str) -> str:
    keys = path if path and isinstance(path[0], str) else (prefix, *path)
    return "_".join(map(str, keys))
