"""What a job's configuration stands for: data, modules, Trainers, exports."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from lightning_compress.callback import Compression
from lightning_compress.callback.checkpoints import read_checkpoint
from lightning_compress.callback.finishing import export_in_rehearsal
from lightning_compress.commands.recipe import recipe_export
from lightning_compress.copying import copy_whole
from lightning_compress.coreml.export import CoreMLExport
from lightning_compress.errors import ConfigurationError, did_you_mean
from lightning_compress.methods.mechanism.method import Method

FITS = ("float_fit", "compressed_fit")

_LENGTHS = {"max_steps", "max_epochs", "max_time", "min_steps", "min_epochs"}


class Building:
    """Makes what the stages of a job need, each time anew.

    Args:
        config: The composed configuration `train.yaml`.
        folder: Where checkpoints, packages and results go.

    Raises:
        ConfigurationError: A value that cannot be used.
    """

    def __init__(self, config: DictConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        seed = config.seed
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ConfigurationError(
                f"seed={seed!r} is no seed; valid are whole numbers from 0 to {2**32 - 1}"
            )
        self.data: L.LightningDataModule = instantiate(config.data)
        self.methods: list[Method] = list(instantiate(config.compression.methods, _convert_="all").values())

    @property
    def is_rehearsal(self) -> bool:
        """Whether every fit is one step long (`trainer.fast_dev_run`)."""
        return bool(self.config.trainer.fast_dev_run)

    def module(self, stage: str) -> L.LightningModule:
        """The recipe's LightningModule for a fit.

        Raises:
            ConfigurationError: `recipe.network` is no module of it.
        """
        merged = _merged(self.config.recipe.module, self.config[stage].module)
        module = cast(L.LightningModule, instantiate(merged, _convert_="all"))
        network = self.config.recipe.network
        names = [name for name, _ in module.named_modules() if name]
        if network not in names:
            children = [name for name, _ in module.named_children()]
            raise ConfigurationError(
                f"recipe.network={network!r} is no module of {type(module).__name__}"
                f"{did_you_mean(str(network), names)} Its parts are {', '.join(children)}."
            )
        return module

    def float_module(self) -> L.LightningModule:
        """The module that the float fit begins with.

        Raises:
            ConfigurationError: `float_fit.weights` cannot be read or does not fit.
        """
        module = self.module("float_fit")
        if self.config.float_fit.weights is not None:
            module.load_state_dict(read_weights(Path(self.config.float_fit.weights), module))
        return module

    def network(self, module: L.LightningModule) -> torch.nn.Module:
        """A copy of the recipe's network, on the CPU and in evaluation mode."""
        return copy_whole(module.get_submodule(self.config.recipe.network)).cpu().eval()

    def compression(self) -> Compression:
        """The callback of the fit with compression; `train` has rehearsed the export itself."""
        return Compression(
            *self.methods,
            module=self.config.recipe.network,
            export=self.export(self.config.compression.name),
            rehearse=False,
        )

    def export(self, name: str) -> CoreMLExport:
        """How the package `name` is made."""
        return recipe_export(self.config, self.data, self.package(name))

    def package(self, name: str) -> Path:
        """Where the package `name` lies."""
        return self.folder / f"{name}.mlpackage"

    def compressed_package(self) -> Path:
        """Where the fit with compression has written its package."""
        export = self.export(self.config.compression.name)
        return Path((export_in_rehearsal(export) if self.is_rehearsal else export).path)

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
        lengths = sorted(_LENGTHS & set(settings))
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
                _merged(settings, self.config[stage].trainer),
                callbacks=[*first, *given, *last],
                logger=self._logger(stage),
                default_root_dir=str(self.folder / stage),
                _convert_="all",
            ),
        )

    def evaluation(self, exported: torch.nn.Module) -> L.LightningModule:
        """The module that tests a package."""
        return cast(L.LightningModule, instantiate(self.config.recipe.evaluator)(exported))

    def picture(self) -> Callable[..., Path] | None:
        """What draws sample pictures; None where there is nothing to draw."""
        recipe, pictures = self.config.recipe, self.config.pictures
        if not pictures.count or recipe.get("picture") is None:
            return None
        return cast(Callable[..., Path], instantiate(recipe.picture))

    def steps(self, stage: str) -> int | None:
        """Optimizer steps of a fit, where its configuration and the data tell."""
        settings = _merged(self.config.trainer, self.config[stage].trainer)
        most = settings.get("max_steps", -1)
        epochs = settings.get("max_epochs")
        if epochs is None or epochs < 0:
            return most if most >= 0 else None
        try:
            batches = len(self.data.train_dataloader())
        except TypeError:
            return most if most >= 0 else None
        devices = settings.get("devices", 1)
        if not isinstance(devices, int) or devices < 1 or settings.get("limit_train_batches") is not None:
            return most if most >= 0 else None
        of_process = -(-batches // (devices * settings.get("num_nodes", 1)))
        steps = int(epochs * -(-of_process // settings.get("accumulate_grad_batches", 1)))
        return min(steps, most) if most >= 0 else steps

    def _logger(self, stage: str) -> Any:
        if not self.config.logger:
            return False
        return instantiate(self.config.logger, save_dir=str(self.folder / stage))


def read_weights(path: Path, module: L.LightningModule) -> Mapping[str, torch.Tensor]:
    """The weights in a checkpoint of a float fit.

    Raises:
        ConfigurationError: The file is missing or damaged, or its weights are another module's.
    """
    key = f"float_fit.weights={str(path)!r}"
    if not path.is_file():
        raise ConfigurationError(f"{key} is no file; valid is a checkpoint of a float fit")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigurationError(f"{key} cannot be read as a checkpoint: {error}") from error
    weights = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping):
        raise ConfigurationError(f"{key} holds no weights but a {type(content).__name__}")
    expected = module.state_dict()
    missing, surplus = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    if missing or surplus:
        raise ConfigurationError(
            f"{key} does not fit {type(module).__name__}: missing {missing[:3]}, unknown {surplus[:3]}"
        )
    other = [name for name in expected if expected[name].shape != weights[name].shape]
    if other:
        shapes = f"{tuple(weights[other[0]].shape)} instead of {tuple(expected[other[0]].shape)}"
        raise ConfigurationError(
            f"{key} does not fit {type(module).__name__}: {other[0]} has the shape {shapes}"
        )
    return weights


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


def _merged(base: DictConfig, own: DictConfig) -> DictConfig:
    """`base` with the entries of one fit, which may add keys."""
    merged = copy.deepcopy(base)
    with open_dict(merged):
        merged.merge_with(own)
    return merged
