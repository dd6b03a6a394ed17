"""What a network is called with, as its LightningModule calls it."""

from __future__ import annotations

import inspect
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_compress.callback.inputs import on_cpu
from lightning_compress.coreml.structure import ExampleInputs
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.agreement import Call


class CallRecorder:
    """Records the first calls of a module within a block.

    Args:
        module: The module.
        samples: How many samples are enough: the first axis of a call's first tensor counts them.

    Attributes:
        calls: What it was called with.
    """

    def __init__(self, module: nn.Module, samples: int) -> None:
        self.calls: list[Call] = []
        self._module = module
        self._missing = samples

    def __enter__(self) -> CallRecorder:
        self._handle = self._module.register_forward_pre_hook(self._keep, with_kwargs=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()

    def _keep(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self._missing > 0:
            self.calls.append(Call(on_cpu(arguments), on_cpu(named)))
            self._missing -= _samples((arguments, named))


def as_example_inputs(module: nn.Module, call: Call) -> ExampleInputs:
    """A call as an export takes it: a tuple by position, or a dictionary where anything is given by name.

    Raises:
        ConfigurationError: If the call mixes both, and the module's forward does not name what it takes by position.
    """
    if not call.keywords:
        return call.arguments
    if not call.arguments:
        return dict(call.keywords)
    parameters = list(inspect.signature(module.forward).parameters.values())
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    if len(names) < len(call.arguments):
        raise ConfigurationError(
            f"{type(module).__name__} is called by position and by name at once, and its forward has no names for the "
            "first; call it in one way"
        )
    return {**dict(zip(names, call.arguments, strict=False)), **call.keywords}


def _samples(values: Any) -> int:
    tensors = [value for value in tree_leaves(values) if isinstance(value, Tensor)]
    return len(tensors[0]) if tensors and tensors[0].dim() else 1
