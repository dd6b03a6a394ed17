"""A package in the place of the network that it was made of."""

from __future__ import annotations

import copy
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.coreml.image import ImageInput
from lightning_compress.coreml.structure import Arguments, ExampleInputs, take_apart
from lightning_compress.errors import ConfigurationError
from lightning_compress.tasks.task import Task


class InPlace(nn.Module):
    """Is called as the network was, runs the package, and returns what the network would have returned.

    So the losses and metrics of a LightningModule's own validation step measure the package. Attributes of the network
    that are plain values, such as a configuration, are there; layers, weights and methods are not, and asking for one
    is an error that names it.

    Args:
        package: What `runtime.load` returns.
        network: What it was made of; only asked once for what it returns.
        example_inputs: What the network was exported with.
        task: How the outputs of the package become those of the network.
        image: How the package presents its first input as an image; None for an array.

    Raises:
        ConfigurationError: The network cannot be called with the example inputs.

    Example:
        Measured by a LightningModule's own validation, whose network is `lit.model`::

            lit.model = InPlace(load("net.mlpackage"), lit.model, lit.example_input_array, Task())
            trainer.validate(lit, datamodule=data)
    """

    def __init__(
        self,
        package: nn.Module,
        network: nn.Module,
        example_inputs: ExampleInputs,
        task: Task,
        image: ImageInput | None = None,
    ) -> None:
        super().__init__()
        self.package = package
        self.task = task
        self.image = image
        self.arguments = Arguments(network, example_inputs)
        # Not as a child: its weights are not those that are measured.
        self.__dict__["_network"] = (network,)
        mode = network.training
        with torch.no_grad():
            self._returned = self.arguments.call(network.eval())
        network.train(mode)
        self._expected = take_apart(self._returned, type(network).__name__)

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """What the network would have returned, by the package."""
        outputs = self.outputs(self.inputs(*arguments, **named))
        tensors = self.task.restored(outputs, self._expected)
        if len(tensors) != len(self._expected):
            raise ConfigurationError(
                f"the package returns {len(tensors)} tensors, and the network {len(self._expected)}; "
                f"task={self.task.name} cannot give back what the network returned"
            )
        restored = [
            tensor.to(expected.dtype) for tensor, expected in zip(tensors, self._expected, strict=True)
        ]
        memo = {id(old): new for old, new in zip(self._expected, restored, strict=True)}
        return copy.deepcopy(self._returned, memo)

    def inputs(self, *arguments: Any, **named: Any) -> list[Tensor]:
        """The inputs of the package for a call of the network; an image holds pixels of 0 to 255.

        Raises:
            ConfigurationError: The network is called in another way than it was exported.
        """
        tensors = self.arguments.tensors(arguments, named)
        if self.image is not None:
            tensors[0] = as_pixels(tensors[0], self.image)
        return tensors

    def outputs(self, inputs: list[Tensor]) -> Mapping[str, Any]:
        """The outputs of the package by name."""
        with torch.no_grad():
            return self.task.run(self.package, inputs)

    def __getattr__(self, name: str) -> Any:
        """What is asked of the network beside a call: a plain value, or an error that names what a package lacks."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "_network" not in self.__dict__:
                raise
        (network,) = self.__dict__["_network"]
        value = getattr(network, name)
        if isinstance(value, nn.Module | Tensor | types.MethodType):
            kinds = {nn.Module: "layer", Tensor: "weight", types.MethodType: "method"}
            (kind,) = (word for known, word in kinds.items() if isinstance(value, known))
            raise _cannot_give(f"{kind} {name!r}")
        return value

    def __getitem__(self, index: Any) -> Any:
        """Parts of a sequence are layers, too."""
        raise _cannot_give(f"part {index!r}")

    def __iter__(self) -> Any:
        """As for one part."""
        raise _cannot_give("parts")


def _cannot_give(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"validation asks the network for its {what}, which a package cannot give: it is a whole that is only called. "
        "Let the validation step call the network alone, or set recipe.network to the part that it calls"
    )


def as_pixels(values: Tensor, image: ImageInput) -> Tensor:
    """The pixels, RGB of 0 to 255, that a network sees as `values`."""
    scale = values.new_tensor(image.scales()).view(1, -1, 1, 1)
    bias = values.new_tensor(image.biases()).view(1, -1, 1, 1)
    pixels = (values - bias) / scale
    return pixels.flip(1) if image.color_layout == "BGR" else pixels
