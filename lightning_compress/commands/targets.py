"""Classes that a configuration names, looked for before they are called: a misspelt name is told as such."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightning_compress.errors import ConfigurationError, did_you_mean


def require_target(config: DictConfig, key: str) -> None:
    """Refuse a class that is not there. One whose module fails as it is imported is left to whoever calls it.

    Args:
        config: What Hydra is to make: a class or function as `_target_`, with its arguments.
        key: Where it stands in the whole configuration, such as `recipe.module`.

    Raises:
        ConfigurationError: There is no such module, or none of that name in it.
    """
    target = str(config.get("_target_", ""))
    path, *names = target.split(".")
    if not path or not names:
        return
    try:
        found = _imported(path)
        if found is None:
            here = [file.stem for file in Path().glob("*.py")]
            raise ConfigurationError(
                f"{key}._target_={target}: {path!r} is not installed, and there is no {path}.py in the current folder"
                f"{did_you_mean(path, here)}"
            )
        for name in names:
            # A module is an attribute of its package only once it is imported.
            if not hasattr(found, name) and _imported(f"{path}.{name}") is None:
                valid = [other for other in dir(found) if not other.startswith("_")]
                raise ConfigurationError(
                    f"{key}._target_={target}: {path} has no {name}{did_you_mean(name, valid)}"
                )
            found, path = getattr(found, name), f"{path}.{name}"
    except ConfigurationError:
        raise
    except Exception:
        # A fault of the user's own code, which Hydra tells with its cause.
        return


def _imported(path: str) -> Any:
    """A module; None where there is none, as opposed to one that imports what is not there."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name == path or path.startswith(f"{error.name}."):
            return None
        raise
