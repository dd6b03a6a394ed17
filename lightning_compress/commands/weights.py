"""Weights of a checkpoint, whoever wrote it: of a LightningModule or its network alone, with or without a prefix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_compress.callback.plain_loading import why_unreadable
from lightning_compress.errors import ConfigurationError
from lightning_compress.state_dicts import misfits, without_prefix

_CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "weights")
"""Where training scripts put the state dict in what they save."""


def load_weights(path: Path, key: str, module: L.LightningModule, network: str) -> None:
    """Load a checkpoint's weights into a module, or into its network alone.

    Args:
        path: A checkpoint of Lightning, or whatever `torch.save` wrote of a state dict; its names may have a prefix.
        key: Where in the configuration the path stands, for messages.
        module: Takes the weights.
        network: Path of its network, whose weights the file may hold alone.

    Raises:
        ConfigurationError: The file is missing or damaged, or its weights are another module's.
    """
    state = _state_dict(path, f"{key}={str(path)!r}")
    problems = []
    for part, name in (
        (module, type(module).__name__),
        (module.get_submodule(network), f"its network {network!r}"),
    ):
        own = without_prefix(state, part.state_dict())
        found = misfits(own, part.state_dict())
        if not found:
            part.load_state_dict(own, strict=False)
            return
        problems.append(f"{name} ({'; '.join(found)})")
    raise ConfigurationError(f"{key}={str(path)!r} fits neither {' nor '.join(problems)}")


def _state_dict(path: Path, named: str) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ConfigurationError(
            f"{named} is no file; valid is a checkpoint of Lightning or a file with a state dict"
        )
    if path.suffix == ".safetensors":
        return _of_safetensors(path, named)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigurationError(
            f"{named} cannot be read as a checkpoint: {why_unreadable(error)}"
        ) from error
    for name in _CONTAINERS:
        inner = content.get(name) if isinstance(content, Mapping) else None
        if isinstance(inner, Mapping):
            content = inner
            break
    if (
        not isinstance(content, Mapping)
        or not content
        or not any(isinstance(v, Tensor) for v in content.values())
    ):
        kind = (
            type(content).__name__ if not isinstance(content, Mapping) else f"mapping of {list(content)[:5]}"
        )
        raise ConfigurationError(f"{named} holds no weights but a {kind}")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _of_safetensors(path: Path, named: str) -> Mapping[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ConfigurationError(
            f"{named} needs safetensors, which is not installed: pip install safetensors"
        ) from error
    try:
        return load_file(path)
    except Exception as error:
        raise ConfigurationError(f"{named} cannot be read: {error}") from error
