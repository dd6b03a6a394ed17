"""What a job's configuration stands for: data, modules, Trainers, exports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig

from lightning_compress.arguments import require_seed
from lightning_compress.callback import Compression
from lightning_compress.callback.checkpoints import read_checkpoint
from lightning_compress.callback.distillation.options import Distillation, as_distillation
from lightning_compress.callback.finishing import path_in_rehearsal
from lightning_compress.callback.prepared import CALIBRATION_SAMPLES
from lightning_compress.commands.recipe import Recipe, merged
from lightning_compress.commands.weights import load_weights
from lightning_compress.coreml.export import CoreMLExport
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.method import Method

FITS = FLOAT_FIT, COMPRESSED_FIT = ("float_fit", "compressed_fit")

LENGTHS = {"max_steps", "max_epochs", "max_time", "min_steps", "min_epochs"}
"""Arguments of Lightning's Trainer that say how long a fit is."""


class Building:
    """Makes what the stages of a job need, each time anew.

    Args:
        config: A composed configuration with a recipe, fits and `compression`.
        folder: Where checkpoints, packages and results go.
        data: Those of another job, to share them; None to make them.

    Raises:
        ConfigurationError: A value that cannot be used.
    """

    def __init__(self, config: DictConfig, folder: Path, data: L.LightningDataModule | None = None) -> None:
        self.config = config
        self.folder = folder
        require_seed(config.seed)
        self.recipe = Recipe(config, data)
        self.data = self.recipe.data
        self.methods: list[Method] = list(instantiate(config.compression.methods, _convert_="all").values())
        self.distillation = self._distillation()

    @property
    def is_trained(self) -> bool:
        """Whether any method of the compression is trained; others are found from data, without a fit."""
        return any(method.is_trained for method in self.methods)

    @property
    def is_rehearsal(self) -> bool:
        """Whether every fit is one step long (`trainer.fast_dev_run`)."""
        return bool(self.config.trainer.fast_dev_run)

    def module(self, stage: str) -> L.LightningModule:
        """The recipe's LightningModule for a fit.

        Raises:
            ConfigurationError: It cannot be built, or `recipe.network` is no module of it.
        """
        return self.recipe.module(self.config[stage].module)

    def float_module(self) -> L.LightningModule:
        """The module that the float fit begins with.

        Raises:
            ConfigurationError: `float_fit.weights` cannot be read or does not fit.
        """
        module = self.module("float_fit")
        if self.config.float_fit.weights is not None:
            path = Path(str(self.config.float_fit.weights)).expanduser()
            load_weights(path, "float_fit.weights", module, self.recipe.network_path(module))
        return module

    def compression(self, module: L.LightningModule) -> Compression:
        """The callback of the fit of a module with compression; `train` has rehearsed the export itself."""
        return Compression(
            *self.methods,
            module=self.recipe.network_path(module),
            example_inputs=self.recipe.example_inputs(module),
            export=self.export(self.config.compression.name, module),
            rehearse=False,
            calibration_samples=self.config.compression.get("samples", CALIBRATION_SAMPLES),
            distillation=self.distillation,
        )

    def _distillation(self) -> Distillation | None:
        given = self.config.compression.get("distillation")
        if given is None:
            return None
        found = as_distillation(instantiate(given, _convert_="all"))
        if self.methods and not self.is_trained:
            raise ConfigurationError(
                "compression.distillation draws a network to its float weights in a fit, and "
                f"{self.config.compression.name} is found from data without one; set compression.distillation=null"
            )
        return found

    def export(self, name: str, module: L.LightningModule) -> CoreMLExport:
        """How the package `name` of the network of a module is made."""
        return self.recipe.export(self.package(name), module)

    def package(self, name: str) -> Path:
        """Where the package `name` lies."""
        return self.folder / f"{name}.mlpackage"

    def compressed_package(self) -> Path:
        """Where the fit with compression has written its package."""
        path = self.package(self.config.compression.name)
        return path_in_rehearsal(path) if self.is_rehearsal else path

    def trainer(
        self, stage: str, first: Sequence[L.Callback] = (), last: Sequence[L.Callback] = ()
    ) -> L.Trainer:
        """The Trainer of a fit.

        Args:
            stage: Which fit.
            first: Callbacks before the configured ones.
            last: Callbacks behind them.

        Raises:
            ConfigurationError: A length was given for both fits at once.
        """
        settings = self.config.trainer
        lengths = sorted(LENGTHS & set(settings))
        if lengths:
            raise ConfigurationError(
                f"trainer.{lengths[0]} would hold for both fits; set float_fit.trainer.{lengths[0]} and "
                f"compressed_fit.trainer.{lengths[0]}"
            )
        given = [
            instantiate(entry, _convert_="all") for entry in (self.config.callbacks or {}).values() if entry
        ]
        return cast(
            L.Trainer,
            instantiate(
                merged(settings, self.config[stage].trainer),
                callbacks=[*first, *given, *last],
                logger=self._logger(stage),
                default_root_dir=str(self.folder / stage),
                _convert_="all",
            ),
        )

    def steps(self, stage: str) -> int | None:
        """Optimizer steps of a fit, where its configuration and the data tell."""
        if stage == COMPRESSED_FIT and self.methods and not self.is_trained:
            return 0
        settings = merged(self.config.trainer, self.config[stage].trainer)
        most = settings.get("max_steps", -1)
        epochs = settings.get("max_epochs")
        if epochs is None or epochs < 0:
            return most if most >= 0 else None
        try:
            batches = len(self.data.train_dataloader())
        except TypeError:
            return most if most >= 0 else None
        devices = settings.get("devices", 1)
        limit = settings.get("limit_train_batches")
        if not isinstance(devices, int) or devices < 1 or isinstance(limit, float):
            return most if most >= 0 else None
        of_process = -(-batches // (devices * settings.get("num_nodes", 1)))
        of_process = of_process if limit is None else min(of_process, limit)
        steps = int(epochs * -(-of_process // settings.get("accumulate_grad_batches", 1)))
        return min(steps, most) if most >= 0 else steps

    def _logger(self, stage: str) -> Any:
        if not self.config.logger:
            return False
        return instantiate(self.config.logger, save_dir=str(self.folder / stage))


def check_checkpoint(path: str, key: str, module: L.LightningModule) -> None:
    """Find out whether a fit can go on from a checkpoint.

    Args:
        path: The file.
        key: Where in the configuration it stands.
        module: What is fitted, without compression.

    Raises:
        ConfigurationError: It is missing, damaged, holds weights alone, or those of another module.
    """
    try:
        checkpoint = read_checkpoint(path)
    except ConfigurationError as error:
        raise ConfigurationError(f"{key}: {error}") from error
    if "optimizer_states" not in checkpoint:
        raise ConfigurationError(
            f"{key}: {str(path)!r} holds weights alone, and a fit cannot go on from it; set float_fit.weights to begin "
            "with them"
        )
    expected, weights = module.state_dict(), checkpoint["state_dict"]
    missing, surplus = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    if missing or surplus:
        raise ConfigurationError(
            f"{key}: {str(path)!r} does not fit {type(module).__name__}: missing {missing[:3]}, unknown {surplus[:3]}"
        )
