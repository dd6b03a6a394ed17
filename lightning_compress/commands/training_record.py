"""What a package says of how it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

TRAINING = "training"
"""Key in a package's metadata of the configuration that it was trained with, a JSON object."""

_OF_TRAINING = ("seed", "recipe", "data", "compression", "float_fit", "compressed_fit", "trainer")


def training_record(config: DictConfig) -> dict[str, Any]:
    """The part of a configuration that training depends on, without folders of this machine."""
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
