"""What a composed configuration says about a network: its module, its data, its task, and how its packages are made."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, cast

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict
from torch import nn

from lightning_compress.callback.placement import Placement
from lightning_compress.commands.targets import require_target
from lightning_compress.commands.training_record import TRAINING, training_record
from lightning_compress.copying import copy_whole
from lightning_compress.coreml.export import CoreMLExport
from lightning_compress.coreml.structure import ExampleInputs, input_names
from lightning_compress.errors import CompressionError, ConfigurationError, did_you_mean
from lightning_compress.runtime import load
from lightning_compress.tasks import InPlace, Task
from lightning_compress.tasks.putting import network_inputs, put_in_place


class Recipe:
    """A LightningModule of one's own or of a recipe, with its data.

    Args:
        config: Composed of a recipe, a task, data and an export.
        data: The data where they are there already; None to make them when they are needed.

    Raises:
        ConfigurationError: Something in it cannot be built.
    """

    def __init__(self, config: DictConfig, data: L.LightningDataModule | None = None) -> None:
        self.config = config
        self._data = data
        self.metric = str(config.recipe.metric)
        self.task: Task = instantiate(config.recipe.task, _convert_="all")
        if not isinstance(self.task, Task):
            raise ConfigurationError(
                f"recipe.task is a {type(self.task).__name__}; valid is a Task, such as task=classification"
            )

    @functools.cached_property
    def data(self) -> L.LightningDataModule:
        """The data; they are not set up by this.

        Raises:
            ConfigurationError: There is no such class, or it is no LightningDataModule.
        """
        if self._data is None:
            require_target(self.config.data, "data")
        data = self._data or instantiate(self.config.data)
        if not isinstance(data, L.LightningDataModule):
            raise ConfigurationError(
                f"data._target_={self.config.data._target_} makes a {type(data).__name__}; "
                "a LightningDataModule is needed"
            )
        return data

    @property
    def classes(self) -> list[str]:
        """Names of the classes, where the task or the data, once set up, know them."""
        return self.task.names_of_classes(self.data)

    def module(self, own: DictConfig | None = None) -> L.LightningModule:
        """A new LightningModule.

        Args:
            own: The entries of one fit, over those of the recipe.

        Raises:
            ConfigurationError: There is no such class, it is no LightningModule, or it has no part that
                `recipe.network` names.
        """
        settings = self.config.recipe.module
        require_target(settings, "recipe.module")
        module = instantiate(settings if own is None else merged(settings, own), _convert_="all")
        if not isinstance(module, L.LightningModule):
            raise ConfigurationError(
                f"recipe.module._target_={settings._target_} makes a {type(module).__name__}; "
                "a LightningModule is needed"
            )
        self.network_path(module)
        return module

    def network_path(self, module: L.LightningModule) -> str:
        """The dotted path of the network that is compressed and exported.

        Raises:
            ConfigurationError: `recipe.network` is no part of the module, or is not given and there are several.
        """
        return self._placement(module).path

    def _placement(self, module: L.LightningModule) -> Placement:
        path: str | None = self.config.recipe.get("network")
        try:
            return Placement.find(module, path)
        except CompressionError as error:
            names = [name for name, _ in module.named_modules() if name]
            children = [
                name for name, child in module.named_children() if next(child.parameters(), None) is not None
            ]
            listed = ", ".join(children) or "none; build them in __init__ or configure_model"
            if path is None:
                problem = (
                    "recipe.network is not given, and the module has not exactly one child with parameters."
                )
                raise ConfigurationError(f"{problem} Those of {type(module).__name__}: {listed}.") from error
            raise ConfigurationError(
                f"recipe.network={path!r} is no module of {type(module).__name__}{did_you_mean(path, names)} "
                f"Its parts with parameters are {listed}."
            ) from error

    def network(self, module: L.LightningModule) -> nn.Module:
        """The network, where it stands."""
        return self._placement(module).module

    def network_copy(self, module: L.LightningModule) -> nn.Module:
        """A copy of the network, on the CPU and in evaluation mode."""
        return copy_whole(self.network(module)).cpu().eval()

    def example_inputs(self, module: L.LightningModule) -> ExampleInputs:
        """What the network is called with when the module is called with its `example_input_array`.

        Raises:
            ConfigurationError: There is no `example_input_array`, or the module's forward fails on it.
        """
        return network_inputs(module, self.network_path(module), self.network(module))

    def export(self, path: Path, module: L.LightningModule) -> CoreMLExport:
        """How the package of the network is made.

        Args:
            path: Where to write it.
            module: Whose network it is.
        """
        asked = self._asked(path)
        classes = self.classes
        if asked.input_names is None:
            network = self.network(module)
            names = input_names(network, self.example_inputs(module))
            if asked.image is not None:
                names[0] = "image"
            asked = dataclasses.replace(asked, input_names=names)
        export = self.task.interface(asked, classes)
        metadata = {
            **(export.user_metadata or {}),
            "recipe": self.config.recipe.name,
            "compression": path.stem,
            TRAINING: json.dumps(training_record(self.config)),
        }
        if classes:
            metadata["classes"] = ",".join(classes)
        return dataclasses.replace(export, user_metadata=metadata)

    def in_place(self, module: L.LightningModule, package: Path, precision: str = "float16") -> InPlace:
        """A package put where the network of a module stands, which is changed by this.

        Args:
            module: A module that nobody else uses.
            package: Made of its network.
            precision: As `runtime.load` takes it.

        Returns:
            What stands there now.
        """
        return put_in_place(
            module,
            self.network_path(module),
            self.network(module),
            load(package, precision=cast(Any, precision)),
            self.task,
            self._asked(package).image,
        )

    def _asked(self, path: Path) -> CoreMLExport:
        """The export that the configuration asks for, without what recipe and task add."""
        return cast(CoreMLExport, instantiate(self.config.export, path=str(path), _convert_="all"))


def merged(base: DictConfig, own: DictConfig) -> DictConfig:
    """`base` with the entries of one fit, which may add keys."""
    result = copy.deepcopy(base)
    with open_dict(result):
        result.merge_with(own)
    return result
