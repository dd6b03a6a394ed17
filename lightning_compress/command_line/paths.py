"""Paths that were typed and are not there, told before a command is loaded, with the nearest name beside them."""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lightning_compress.command_line.commands import COMMANDS
from lightning_compress.errors import ConfigurationError, PackageError, nearest

_FILES = ("weights", "float_fit.weights", "checkpoint", "explore.sensitivity", "results")
"""Keys of files that a command reads, beside the one that it works on."""


def check_paths(command: str, config: DictConfig) -> None:
    """Refuse a command that cannot read what was typed: loading it takes far longer than this.

    Raises:
        PackageError: There is no package.
        ConfigurationError: There is no other file or folder, or the path that a command works on was left out.
    """
    _check_worked_on(command, config)
    for key in _FILES:
        path = _given(config, key)
        if path is not None and not _is_there(path):
            raise ConfigurationError(f"{key}={path!r} is no file{nearest_path(path)}")
    path = _given(config, "resume")
    if path is not None and not _is_there(path):
        raise ConfigurationError(f"resume={path!r} holds no job: there is no such folder{nearest_path(path)}")


def nearest_path(path: str) -> str:
    """How an error goes on after a path that is not there: with what looks most like it, if anything does.

    Args:
        path: As it was typed. Of several parts that are missing the first is looked for.
    """
    missing = Path(path).expanduser()
    rest = Path()
    while not os.path.lexists(missing.parent):
        rest = missing.name / rest
        missing = missing.parent
    try:
        beside = os.listdir(missing.parent)
    except OSError:
        beside = []
    # A name with bytes that are no text could not be typed again.
    close = nearest(missing.name, [name for name in beside if name.isprintable()], 1)
    if not close:
        return "."
    found = missing.parent / close[0]
    whole = found / rest
    return f"; did you mean {str(whole if whole.exists() else found)!r}?"


def _check_worked_on(command: str, config: DictConfig) -> None:
    key = COMMANDS[command].path_key
    if key is None:
        return
    path = _given(config, key)
    if path is None:
        raise ConfigurationError(f"{key} is empty; give it as in: {COMMANDS[command].example}")
    if _is_there(path):
        return
    if key == "package":
        raise PackageError(f"There is no Core ML package at {path}{nearest_path(path)}")
    kind = {"folder": "folder of a search"}.get(key, "checkpoint")
    raise ConfigurationError(f"there is no {kind} at {path!r}{nearest_path(path)}")


def _given(config: DictConfig, key: str) -> str | None:
    """The text of a key; None where the command has no such key, or it was left empty."""
    value = OmegaConf.select(config, key)
    return None if value is None or value == "" else str(value)


def _is_there(path: str) -> bool:
    return os.path.lexists(Path(path).expanduser())
