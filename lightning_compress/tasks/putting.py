"""The network of a LightningModule: what it is called with, and a package put where it stands."""

from __future__ import annotations

from typing import Any, cast

import lightning as L
import torch
from torch import nn

from lightning_compress.coreml.image import ImageInput
from lightning_compress.coreml.structure import ExampleInputs, as_call
from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.tasks.calls import CallRecorder, as_example_inputs
from lightning_compress.tasks.in_place import InPlace
from lightning_compress.tasks.task import Task


def network_inputs(module: L.LightningModule, path: str, network: nn.Module) -> ExampleInputs:
    """What the network is called with when the module is called with its `example_input_array`.

    Args:
        module: The LightningModule.
        path: Of the network in it.
        network: The network.

    Raises:
        ConfigurationError: There is no `example_input_array`, or the module's forward fails on it.
    """
    example = module.example_input_array
    if example is None:
        raise ConfigurationError(
            f"{type(module).__name__} has no example_input_array, so that its network cannot be exported; set it "
            "in __init__ to a batch of one input, such as self.example_input_array = torch.zeros(1, 3, 224, 224)"
        )
    mode = module.training
    module.eval()
    try:
        with CallRecorder(network, samples=1) as recorder, torch.no_grad():
            arguments, named = as_call(cast(ExampleInputs, example))
            module(*arguments, **named)
    except CompressionError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"forward of {type(module).__name__} fails on its example_input_array: {type(error).__name__}: {error}"
        ) from error
    finally:
        module.train(mode)
    if not recorder.calls:
        raise ConfigurationError(
            f"forward of {type(module).__name__} does not call {path!r} when it is called "
            "with its example_input_array; let it, or set recipe.network to what it calls"
        )
    return as_example_inputs(network, recorder.calls[0])


def put_in_place(
    module: L.LightningModule,
    path: str,
    network: nn.Module,
    package: nn.Module,
    task: Task,
    image: ImageInput | None,
) -> InPlace:
    """A package put where the network of a module stands, which is changed by this.

    Args:
        module: A module that nobody else uses.
        path: Of the network in it.
        network: The network.
        package: What `runtime.load` returns for a package that was made of it.
        task: How the outputs of the package become those of the network.
        image: How the package presents its first input as an image; None for an array.

    Returns:
        What stands there now.
    """
    placed = InPlace(package, network, network_inputs(module, path, network), task, image)
    _refuse_other_ways(module, network, path)
    module.set_submodule(path, placed)
    return placed


def _refuse_other_ways(module: L.LightningModule, network: nn.Module, path: str) -> None:
    """A part of the network that the module holds under another name would be measured as it was before compression."""
    parts = {id(part): name for name, part in network.named_modules()}
    for name, part in list(module.named_modules(remove_duplicate=False)):
        if id(part) in parts and name != path and not name.startswith(f"{path}."):
            module.set_submodule(name, _NotInPackage(f"{path}.{parts[id(part)]}".rstrip("."), name))


class _NotInPackage(nn.Module):
    def __init__(self, path: str, name: str) -> None:
        super().__init__()
        self.path = path
        self.name = name

    def forward(self, *_: Any, **__: Any) -> Any:
        raise ConfigurationError(
            f"validation calls {self.name!r}, which is {self.path!r} of the network, and a package cannot give parts "
            "of the network; let the validation step call the network alone"
        )
