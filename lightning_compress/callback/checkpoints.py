"""What a checkpoint says about the compression that it was written with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_compress.callback.plain_loading import load_plainly, why_unreadable
from lightning_compress.errors import ConfigurationError

STATE_VERSION = 2
"""Of the callback's state; another is refused."""

VERSION_KEY = "compression_version"
"""Where a state holds its version; by it a state is known as one of `Compression`, whatever a subclass is called."""


def compression_states(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The states of all `Compression` callbacks in a checkpoint, subclasses' too, in plain types."""
    callbacks: Mapping[str, Any] = checkpoint.get("callbacks") or {}
    return [
        dict(state) for state in callbacks.values() if isinstance(state, Mapping) and VERSION_KEY in state
    ]


def require_same_compression(
    checkpoint: Mapping[str, Any], path: Any, module: str | None, current: list[dict[str, Any]]
) -> None:
    """Say why the weights of a checkpoint do not fit, before torch lists the names of tensors.

    Args:
        checkpoint: A checkpoint whose weights have other names than the module's.
        path: Where it came from.
        module: Dotted path of the compressed module.
        current: Descriptions of the techniques in it.

    Raises:
        ConfigurationError: It was written without compression, or with another.
    """
    states = compression_states(checkpoint)
    if not states:
        raise ConfigurationError(
            f"the checkpoint {str(path)!r} was written without Compression and cannot be resumed with it; to compress "
            "what it holds, load its weights before the fit: "
            'lit.load_state_dict(torch.load(path)["state_dict"])'
        )
    for state in states:
        if state["module"] == module:
            check_version(state)
            check_configuration(state["configuration"], current)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of Lightning on the CPU.

    Raises:
        ConfigurationError: There is no such file, or it holds something else.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"there is no checkpoint at {str(path)!r}")
    try:
        checkpoint = load_plainly(path)
    except Exception as error:
        raise ConfigurationError(
            f"{str(path)!r} cannot be read as a checkpoint: {why_unreadable(error)}"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ConfigurationError(f"{str(path)!r} is no checkpoint of Lightning: it holds no 'state_dict'")
    return checkpoint


def select_state(checkpoint: Mapping[str, Any], module: str | None, path: str | Path) -> dict[str, Any]:
    """The state of the one `Compression` in a checkpoint, or of the one for `module`.

    Raises:
        ConfigurationError: There is none, or more than one and no `module` to tell them apart.
    """
    states = compression_states(checkpoint)
    paths = [state["module"] for state in states]
    if not states:
        raise ConfigurationError(
            f"the checkpoint {str(path)!r} holds no state of Compression: it was written without that callback, or "
            "with save_weights_only=True"
        )
    chosen = [state for state in states if module is None or state["module"] == module]
    if len(chosen) != 1:
        raise ConfigurationError(
            f"module={module!r}, and the checkpoint {str(path)!r} compresses {paths}; name one"
        )
    check_version(chosen[0])
    return chosen[0]


def check_version(state: Mapping[str, Any]) -> None:
    """Refuse a state of another version.

    Raises:
        ConfigurationError: With both versions.
    """
    if state.get(VERSION_KEY) != STATE_VERSION:
        raise ConfigurationError(
            f"the checkpoint holds compression state of version {state.get(VERSION_KEY)!r}; valid is {STATE_VERSION}"
        )


def check_configuration(saved: list[dict[str, Any]], current: list[dict[str, Any]]) -> None:
    """Refuse to go on with another configuration.

    Raises:
        ConfigurationError: Says what differs.
    """
    found = differences(saved, current)
    if found:
        raise ConfigurationError(
            f"the checkpoint was written with another compression: {'; '.join(found)}. Resume with the same "
            "configuration, or start a new fit from the weights alone"
        )


def warn_of_incomplete_best(callbacks: Sequence[Checkpoint], module: str | None) -> None:
    """Warn of a "best" checkpoint that dates from before the compression of `module` was complete."""
    for callback in callbacks:
        if not isinstance(callback, ModelCheckpoint) or callback.monitor is None:
            continue
        path = Path(callback.best_model_path)
        if not path.is_file():
            continue
        for state in compression_states(load_plainly(path, mapped=True)):
            if state["module"] == module and state["unfinished"]:
                rank_zero_warn(
                    f"the best checkpoint by {callback.monitor!r}, {path.name}, was written before the compression was "
                    f"complete: {'; '.join(state['unfinished'])}. Monitor from the end of the schedule on, or "
                    "shorten the schedule"
                )


def differences(saved: Any, current: Any, path: str = "compression") -> list[str]:
    """Where two descriptions in plain types differ, one phrase each."""
    if isinstance(saved, Mapping) and isinstance(current, Mapping):
        keys = [*saved, *(key for key in current if key not in saved)]
        return [d for key in keys for d in differences(saved.get(key), current.get(key), f"{path}.{key}")]
    if isinstance(saved, list) and isinstance(current, list):
        if len(saved) == len(current):
            pairs = enumerate(zip(saved, current, strict=True))
            return [d for index, pair in pairs for d in differences(*pair, f"{path}[{index}]")]
        if _techniques(saved) != _techniques(current):
            return [f"{path} was {_techniques(saved)} and is {_techniques(current)}"]
    return [] if saved == current else [f"{path} was {saved!r} and is {current!r}"]


def _techniques(entries: list[Any]) -> list[Any]:
    return [entry.get("technique", entry) if isinstance(entry, Mapping) else entry for entry in entries]
