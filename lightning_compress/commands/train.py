"""`lightning-compress train`: a float fit, packages palettized after it, and a fit with compression."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig, open_dict
from rich.text import Text

from lightning_compress.callback import Compression
from lightning_compress.callback.finishing import rehearse
from lightning_compress.callback.reporting import package_line
from lightning_compress.commands.measuring import measure
from lightning_compress.commands.recipe import recipe_export
from lightning_compress.commands.results import Result, results_table, write_results
from lightning_compress.console import output_console
from lightning_compress.coreml.card import METRICS
from lightning_compress.coreml.export import CoreMLExport
from lightning_compress.coreml.metadata import add_metadata
from lightning_compress.coreml.post_training import palettize_package
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.mechanism.schedule import FitLength
from lightning_compress.package.save import save_package
from lightning_compress.processes import on_rank_zero
from lightning_compress.runtime import load

_console = output_console()


def run(config: DictConfig) -> list[Result]:
    """Run the job that a composed configuration describes, in Hydra's run directory.

    Returns:
        One result a package; empty on every process but the first.

    Raises:
        CompressionError: Before training wherever that is possible.
    """
    return TrainingJob(config, Path(HydraConfig.get().runtime.output_dir)).run()


class TrainingJob:
    """The stages of `lightning-compress train`.

    Args:
        config: The composed configuration `train.yaml`.
        folder: Where checkpoints, packages and results go.
    """

    def __init__(self, config: DictConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.results: list[Result] = []
        self.data: L.LightningDataModule = instantiate(config.data)
        self.methods = list(instantiate(config.compression.methods, _convert_="all").values())

    def run(self) -> list[Result]:
        """Run the stages in order."""
        L.seed_everything(self.config.seed, workers=True, verbose=False)
        # Bad data should not wait for the first epoch.
        self.data.prepare_data()
        self.data.setup("fit")
        # And a compression that cannot be, or cannot be exported, not for the end of the float fit.
        self._rehearse()
        weights = self._float_fit()
        on_rank_zero(self._post_training)
        if self.methods:
            self._compressed_fit(weights)
        if self.results:
            _console.print(results_table(self.results))
            _console.print(f"results, packages and pictures: {self.folder}")
        return self.results

    def _rehearse(self) -> None:
        """Prepare and export a module that is thrown away, and resolve the schedule where the fit's length is known."""
        if not self.methods:
            return
        module = self._module("compressed_fit")
        prepared = PreparedModule(module.get_submodule(self.config.recipe.network), self.methods)
        fast = bool(self.config.trainer.fast_dev_run)
        steps = self.config.compressed_fit.trainer.get("max_steps", -1)
        if steps > 0:
            prepared.resolve_schedule(FitLength(steps, rehearsal=fast))
        export = self._export(self.config.compression.name)
        export.validate(prepared.capabilities)
        if not fast:
            inputs = (module.example_input_array,)
            on_rank_zero(lambda: rehearse(prepared, export, inputs))

    def _float_fit(self) -> Mapping[str, torch.Tensor]:
        """Train without compression, or take the weights given, and export at float16."""
        stage = self.config.float_fit
        module = self._module("float_fit")
        if stage.weights is not None:
            module.load_state_dict(_checkpoint_weights(Path(stage.weights), module))
        if stage.enabled:
            self._announce("float fit")
            self._trainer("float_fit", []).fit(module, datamodule=self.data, ckpt_path=stage.ckpt_path)
        on_rank_zero(lambda: self._export_float(module))
        return {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}

    def _export_float(self, module: L.LightningModule) -> None:
        network = copy.deepcopy(module.get_submodule(self.config.recipe.network)).cpu().eval()
        inputs = module.example_input_array
        assert inputs is not None
        export = self._export("float16")
        # As the callback does: after the one step of a rehearsal a network may overflow in half precision.
        export = dataclasses.replace(export, verify=export.verify and not self.config.trainer.fast_dev_run)
        package = export.run(network, cast(Any, inputs))
        _console.print(package_line(package))
        self._measure("float16", package.path)

    def _post_training(self) -> None:
        bits = list(self.config.post_training_bits)
        if not bits:
            return
        self._announce("palettization after training")
        for width, model in palettize_package(self.folder / "float16.mlpackage", bits).items():
            name = f"post_training_{width}bit"
            self._measure(name, save_package(model, self.folder / f"{name}.mlpackage"))

    def _compressed_fit(self, weights: Mapping[str, torch.Tensor]) -> None:
        name = self.config.compression.name
        self._announce(f"fit with {name}")
        module = self._module("compressed_fit")
        module.load_state_dict(weights)
        compression = self._compression()
        trainer = self._trainer("compressed_fit", [compression])
        trainer.fit(module, datamodule=self.data, ckpt_path=self.config.compressed_fit.ckpt_path)
        exported = compression.exported
        if exported is not None:
            self._measure(name, exported.path)

    def _compression(self) -> Compression:
        name = self.config.compression.name
        return Compression(
            *self.methods,
            module=self.config.recipe.network,
            export=self._export(name),
            # That is what this job began with.
            rehearse=False,
        )

    def _export(self, name: str) -> CoreMLExport:
        return recipe_export(self.config, self.data, self.folder / f"{name}.mlpackage")

    def _module(self, stage: str) -> L.LightningModule:
        merged = _merged(self.config.recipe.module, self.config[stage].module)
        return cast(L.LightningModule, instantiate(merged, _convert_="all"))

    def _trainer(self, stage: str, callbacks: list[L.Callback]) -> L.Trainer:
        settings = self.config.trainer
        lengths = sorted({"max_steps", "max_epochs", "max_time", "min_steps", "min_epochs"} & set(settings))
        if lengths:
            raise ConfigurationError(
                f"trainer.{lengths[0]} would hold for both fits; set float_fit.trainer.{lengths[0]} and "
                f"compressed_fit.trainer.{lengths[0]}"
            )
        merged = _merged(settings, self.config[stage].trainer)
        given = [
            instantiate(entry, _convert_="all") for entry in (self.config.callbacks or {}).values() if entry
        ]
        return cast(
            L.Trainer,
            instantiate(
                merged,
                callbacks=[*callbacks, *given],
                logger=self._logger(stage),
                default_root_dir=str(self.folder / stage),
                _convert_="all",
            ),
        )

    def _logger(self, stage: str) -> Any:
        if not self.config.logger:
            return False
        return instantiate(self.config.logger, save_dir=str(self.folder / stage))

    def _measure(self, name: str, package: Path) -> None:
        """Run the package, as it is typed, over the validation data on this machine, and draw what it finds."""
        recipe = self.config.recipe
        exported = load(package, precision="float16")
        evaluation: L.LightningModule = instantiate(recipe.evaluator)(exported)
        value = measure(
            evaluation,
            self.data,
            recipe.metric,
            self.folder,
            fast_dev_run=self.config.trainer.fast_dev_run,
        )
        metric = recipe.metric.rpartition("/")[2]
        report = add_metadata(
            package,
            {"compression": name, METRICS: json.dumps({metric: value})},
            card=bool(self.config.export.card),
        )
        self.results.append(
            Result(
                name,
                report.package_bytes,
                report.weight_bytes,
                metric=metric,
                value=value,
                package=str(package),
            )
        )
        write_results(self.results, self.folder)
        pictures = self.config.pictures
        if pictures.count and recipe.get("picture") is not None:
            draw: Callable[..., Path] = instantiate(recipe.picture)
            draw(
                evaluation,
                self.data,
                self.folder / f"{name}.png",
                count=pictures.count,
                threshold=pictures.threshold,
            )

    @rank_zero_only
    def _announce(self, stage: str) -> None:
        _console.rule(Text(stage, "bold"), align="left")


def _merged(base: DictConfig, own: DictConfig) -> DictConfig:
    """`base` with the entries of one fit, which may add keys."""
    merged = copy.deepcopy(base)
    with open_dict(merged):
        merged.merge_with(own)
    return merged


def _checkpoint_weights(path: Path, module: L.LightningModule) -> Mapping[str, torch.Tensor]:
    if not path.is_file():
        raise ConfigurationError(
            f"float_fit.weights is {str(path)!r}, which is no file; valid is a checkpoint of a float fit"
        )
    weights: Mapping[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    weights = cast(Mapping[str, torch.Tensor], weights.get("state_dict", weights))
    expected = module.state_dict()
    missing, surplus = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    if missing or surplus:
        raise ConfigurationError(
            f"float_fit.weights {str(path)!r} does not fit {type(module).__name__}: missing "
            f"{missing[:3]}, unknown {surplus[:3]}"
        )
    return weights
