"""Pretrained weights: torchvision's names, a local file, or none."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.errors import ConfigurationError, did_you_mean
from lightning_compress.state_dicts import misfits, without_prefix

logger = logging.getLogger(__name__)


def read_weights(weights: str, enum: Any) -> dict[str, Tensor]:
    """The state dict that `weights` stands for.

    Args:
        weights: a name of torchvision's enum (`IMAGENET1K_V2`, `DEFAULT`), which is downloaded once and kept
            by `torch.hub`, or the path of a file that `torch.save` wrote: a state dict, or a Lightning
            checkpoint of a module that holds the network.
        enum: torchvision's `WeightsEnum` of the architecture.

    Raises:
        ConfigurationError: a name that is neither, a download that fails, a file that holds no state dict.
    """
    if weights in enum.__members__:
        return _download(weights, enum)
    path = Path(weights).expanduser()
    if path.is_file():
        return _read_file(path)
    hint = did_you_mean(weights, enum.__members__)
    raise ConfigurationError(
        f"weights={weights!r} is neither a name of torchvision's {enum.__name__} nor a file that exists{hint} "
        f"Valid names are {', '.join(enum.__members__)}; null trains from scratch."
    )


def _download(name: str, enum: Any) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = enum[name].get_state_dict(progress=True, check_hash=True)
    # URLError and timeouts are OSErrors; a file cut short fails its hash with a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(
            f"weights={name!r} could not be downloaded from {enum[name].url} ({error}). Without a network "
            f"set weights to a local file, put that file into {Path(torch.hub.get_dir()) / 'checkpoints'}, "
            "or set weights to null to train from scratch."
        ) from error
    return state


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ConfigurationError(f"weights={str(path)!r} cannot be read as a state dict: {error}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(v, Tensor) for v in content.values())
    ):
        raise ConfigurationError(
            f"weights={str(path)!r} holds no state dict: a mapping of parameter names to tensors is needed, "
            "or a Lightning checkpoint."
        )
    return dict(content)


def load_weights(
    network: nn.Module, state: Mapping[str, Tensor], *, source: str, replaceable: tuple[str, ...] = ()
) -> None:
    """Loads a state dict, and says exactly what does not fit where something does not.

    Args:
        network: takes the weights.
        state: what `read_weights` returned.
        source: the name or file that the state came from, for messages.
        replaceable: prefixes of layers that may differ in shape, because they depend on the number of classes;
            such a layer keeps its initial weights, which is logged.

    Raises:
        ConfigurationError: missing or unexpected names, other shapes.
    """
    own = network.state_dict()
    state = without_prefix(state, own)
    different = [name for name in own if name in state and own[name].shape != state[name].shape]
    if different and all(name.startswith(replaceable) for name in different):
        layers = sorted(
            {prefix.rstrip(".") for prefix in replaceable if any(n.startswith(prefix) for n in different)}
        )
        logger.info("Weights %s: %s starts anew, for another number of classes.", source, ", ".join(layers))
        state = {name: value for name, value in state.items() if name not in different}
        own = {name: value for name, value in own.items() if name not in different}
    problems = misfits(state, own)
    if problems:
        raise ConfigurationError(
            f"weights={source!r} do not fit {type(network).__name__}: {'; '.join(problems)}."
        )
    network.load_state_dict(state, strict=False)
