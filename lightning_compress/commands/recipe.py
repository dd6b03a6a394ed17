"""What a recipe's configuration says about its packages."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lightning_compress.coreml.export import CoreMLExport

TRAINING = "training"
"""Key in a package's metadata of the configuration that it was trained with, a JSON object."""

_OF_TRAINING = ("seed", "recipe", "data", "compression", "float_fit", "compressed_fit", "trainer")


def recipe_export(config: DictConfig, data: L.LightningDataModule, path: Path) -> CoreMLExport:
    """How a recipe's network is exported: its wrapper, its labels, and what it was trained with.

    Args:
        config: Composed of a recipe, an export and a compression.
        data: The recipe's data after `setup`, which knows the names of the classes.
        path: Where to write the package.
    """
    wrapper = instantiate(config.recipe.wrapper)
    labels = list(getattr(data, "class_names", []))
    classifier = bool(labels) and config.export.get("nms") is None and config.recipe.task == "classification"
    suppressed = bool(labels) and config.export.get("nms") is not None
    export: CoreMLExport = instantiate(
        config.export,
        path=str(path),
        wrapper=wrapper,
        input_names=list(wrapper.func.input_names),
        # The outputs of a classifier with labels have names of their own.
        output_names=None if classifier else list(wrapper.func.output_names),
        class_labels=labels if classifier or suppressed else None,
        _convert_="all",
    )
    metadata = {
        **(export.user_metadata or {}),
        "recipe": config.recipe.name,
        "compression": path.stem,
        TRAINING: json.dumps(_training(config)),
    }
    if labels:
        metadata["classes"] = ",".join(labels)
    return dataclasses.replace(export, user_metadata=metadata)


def recipe_module(config: DictConfig, own: DictConfig | None = None) -> L.LightningModule:
    """The recipe's LightningModule, with the entries of one fit over those of the recipe."""
    merged = config.recipe.module if own is None else OmegaConf.merge(config.recipe.module, own)
    return cast(L.LightningModule, instantiate(merged, _convert_="all"))


def _training(config: DictConfig) -> dict[str, Any]:
    whole = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    return {key: _without_folders(whole[key]) for key in _OF_TRAINING if key in whole}


def _without_folders(value: Any) -> Any:
    """The same with absolute paths cut to their last part: an app's users need not know of this machine's folders."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    if isinstance(value, str) and (value.startswith("~") or Path(value).is_absolute()):
        return Path(value).name or value
    return value
