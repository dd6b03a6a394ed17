"""Looks at a composed configuration before the command is loaded: types, what must be given, where it will write."""

from __future__ import annotations

import importlib.util
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_compress.arguments import LARGEST_SEED
from lightning_compress.command_line.comments import comments_of
from lightning_compress.command_line.composing import FILLED_IN, Composition, leaves
from lightning_compress.command_line.paths import check_paths
from lightning_compress.command_line.values import as_typed
from lightning_compress.errors import ConfigurationError
from lightning_compress.explore.quantities import check_limits

_CHECKED_BY_THEIR_CLASSES = ("compression", "callbacks", "logger")
"""Groups whose classes look at their arguments themselves, and take more than the type of the default."""

_OF_SEVERAL_TYPES = ("devices", "precision", "strategy", "fast_dev_run", "max_time", "profiler")
"""Arguments of Lightning's Trainer that take more than the type of their default."""

_OPTIONAL = {("logger", "tensorboard"): "tensorboard"}
"""Choices that need a package which is not among the dependencies; it is called as its module is."""

_READ_BY_COMMANDS = ("export.card", "trainer.fast_dev_run", "data.image_size")
"""Keys in groups that the commands themselves read, beside those of a recipe."""

_CHOSEN_BY_COMMANDS = {
    "export.path": "packages of train lie in hydra.run.dir=…, and lightning-compress export takes path=…"
}
"""Keys that stand in the configuration and that the commands fill in themselves, with what to give instead."""

_RANGES = {
    "seed": (0, LARGEST_SEED),
    "pictures.count": (0, math.inf),
    "pictures.threshold": (0, 1),
    "samples": (1, math.inf),
    "repetitions": (1, math.inf),
    "metric_tolerance": (0, math.inf),
    "limit_batches": (1, math.inf),
    "curve.tolerance": (0, math.inf),
}
"""Keys of the commands themselves whose numbers have bounds, both included."""


def check(command: str, composition: Composition) -> None:
    """Tell what cannot work, before anything slow begins.

    Raises:
        ConfigurationError: A value of a wrong type, one that is missing, a path to nothing, or a folder that cannot be
            written.
        PackageError: A path to no package.
    """
    _check_choices(composition)
    for override in composition.overrides:
        _check_removal(override, composition)
        _check_chosen(override)
        _check_type(override, composition.unchanged)
    _check_ranges(composition.config)
    _check_given(command, composition)
    check_paths(command, composition.config)
    _check_question(command, composition.config)
    _check_written(composition.config)


def _check_choices(composition: Composition) -> None:
    for group, choice in composition.choices.items():
        package = _OPTIONAL.get((group, choice or ""))
        if package is not None and importlib.util.find_spec(package) is None:
            raise ConfigurationError(
                f"{group}={choice} needs {package}, which is not installed: pip install {package}"
            )


def _check_removal(override: Override, composition: Composition) -> None:
    """Refuse to take away a key that the command itself reads."""
    key = override.key_or_group
    group, _, rest = key.partition(".")
    is_read = group not in composition.choices or key in _READ_BY_COMMANDS
    if override.is_delete() and (is_read or (group == "recipe" and "." not in rest)):
        raise ConfigurationError(
            f"{override.input_line} would take away a key that is needed; set it with {override.key_or_group}=…"
        )


def _check_chosen(override: Override) -> None:
    """Refuse a key whose value nobody would look at."""
    instead = _CHOSEN_BY_COMMANDS.get(override.key_or_group)
    if instead is not None:
        raise ConfigurationError(f"{override.input_line} would be without effect: {instead}")


def _check_type(override: Override, unchanged: DictConfig) -> None:
    key = override.key_or_group
    if override.is_delete() or key.partition(".")[0] in _CHECKED_BY_THEIR_CLASSES:
        return
    try:
        default = OmegaConf.select(unchanged, key)
    except OmegaConfBaseException:
        # A reference to what is not given yet.
        return
    value = override.value()
    is_of_trainer = "trainer" in key.split(".")
    if default is None or (is_of_trainer and (value is None or key.rpartition(".")[2] in _OF_SEVERAL_TYPES)):
        return
    needed = _needed(default, value)
    if needed is not None:
        raise ConfigurationError(f"{key}={as_typed(value)} is {_kind(value)}; {needed} is needed")


def _needed(default: Any, value: Any) -> str | None:
    """What a value should be, if it is not of the kind of the default."""
    if isinstance(value, str) and "${" in value:
        return None
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int):
        return None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if isinstance(default, float):
        return None if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    if isinstance(default, ListConfig):
        return None if isinstance(value, list) else f"a list, such as {as_typed(list(default))},"
    if isinstance(default, DictConfig):
        return None if value is None or isinstance(value, dict) else _keys_of(default)
    return "a text" if isinstance(value, list | dict) else None


def _keys_of(default: DictConfig) -> str:
    names = [str(name) for name in default if not str(name).startswith("_")]
    return f"a key of it ({', '.join(names) or 'added with a + before it'})"


def _kind(value: Any) -> str:
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "a mapping",
    }
    return "nothing" if value is None else kinds.get(type(value), type(value).__name__)


def _check_ranges(config: DictConfig) -> None:
    for key, (low, high) in _RANGES.items():
        value = OmegaConf.select(config, key)
        if isinstance(value, int | float) and not low <= value <= high:
            end = "" if math.isinf(high) else f" to {high}"
            raise ConfigurationError(f"{key}={value} is out of range; valid are numbers from {low}{end}")


def _check_given(command: str, composition: Composition) -> None:
    """Refuse what has no default and was not given."""
    for key, node, name in leaves(composition.config):
        if OmegaConf.is_missing(node, name) and "." in key and key.partition(".")[0] not in FILLED_IN:
            comment = comments_of(command, composition.choices).get(key, "")
            told = f": {comment[:1].lower()}{comment[1:]}" if comment else ""
            raise ConfigurationError(f"{key} has no default; give {key}=…{told}")


def _check_question(command: str, config: DictConfig) -> None:
    """Refuse a search without a limit, unless it is one that goes on with its own."""
    if command == "explore" and OmegaConf.is_missing(config, "resume"):
        check_limits(config.explore.max_drop, config.explore.max_size, config.explore.budget)


def _check_written(config: DictConfig) -> None:
    """Try the folders of what will be written."""
    _check_folder("hydra.run.dir", Path(str(config.hydra.run.dir)))
    if config.get("json"):
        path = Path(str(config.json))
        if not path.parent.is_dir() or path.is_dir():
            problem = "is a folder" if path.is_dir() else "is in a folder that does not exist"
            raise ConfigurationError(f"json={str(path)!r} {problem}; give the path of a file to write")
        _check_folder("json", path.parent)


def _check_folder(key: str, folder: Path) -> None:
    try:
        require_writable_folder(folder)
    except OSError as error:
        raise ConfigurationError(
            f"the folder {str(folder)!r} cannot be written ({error.strerror or error}); choose another with {key}=…"
        ) from error


def require_writable_folder(folder: Path) -> None:
    """Try whether files can be made in a folder, which need not be there yet.

    Raises:
        OSError: They cannot.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    # Permission bits say too little: the superuser ignores them, and a read-only file system ignores both.
    os.rmdir(tempfile.mkdtemp(prefix=".lightning-compress.", dir=folder))
