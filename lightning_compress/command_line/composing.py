"""Composes a command's configuration, and names what is unknown in the words that it is composed of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_compress.errors import ConfigurationError, did_you_mean, nearest

CONFIGURATIONS = "lightning_compress.conf"

FILLED_IN = ("export", "logger", "callbacks")
"""Groups in which the commands fill in what has no value: where packages and logs go."""

_LAUNCHERS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}
"""Hydra's launchers that come with an extra, and with which."""


@dataclass(frozen=True)
class Composition:
    """A configuration, and what it was composed of.

    Attributes:
        config: The configuration, Hydra's own node among it.
        unchanged: The same without the overrides of single keys.
        overrides: The overrides of single keys.
        choices: What is chosen of each group; None where nothing is.
        options: What there is to choose of each group.
    """

    config: DictConfig
    unchanged: DictConfig
    overrides: Sequence[Override]
    choices: Mapping[str, str | None]
    options: Mapping[str, Sequence[str]]


def compose_command(command: str, words: Sequence[str]) -> Composition:
    """Compose the configuration of a command.

    Args:
        command: Name of a configuration, which is that of a command.
        words: Overrides as Hydra reads them.

    Raises:
        ConfigurationError: A group, a choice or a key that there is not, with the nearest name; or what else Hydra
            refuses.
    """
    with initialize_config_module(CONFIGURATIONS, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
        of_groups = [override for override in overrides if _is_of_group(override, loader)]
        of_keys = [override for override in overrides if override not in of_groups]
        for override in of_groups:
            _require_name(override, loader)
        unchanged = _composed(command, of_groups, loader)
        choices = {
            group: choice
            for group, choice in unchanged.hydra.runtime.choices.items()
            if not group.startswith("hydra/")
        }
        for override in of_keys:
            _require_known(override, unchanged, choices)
        return Composition(
            config=_composed(command, overrides, loader) if of_keys else unchanged,
            unchanged=unchanged,
            overrides=of_keys,
            choices=choices,
            options={group: loader.get_group_options(group) for group in choices},
        )


def _is_of_group(override: Override, loader: ConfigLoader) -> bool:
    if override.key_or_group.partition(".")[0] == "hydra" or override.package is not None:
        return True
    return bool(loader.get_group_options(override.key_or_group))


def _require_name(override: Override, loader: ConfigLoader) -> None:
    """Refuse what is no choice of a group: a number, nothing, or the removal of a group that a command needs."""
    named = isinstance(override.value(), str) and not override.is_delete()
    if override.is_hydra_override() or override.is_sweep_override() or named:
        return
    group = override.key_or_group
    valid = ", ".join(loader.get_group_options(group))
    raise ConfigurationError(
        f"{override.input_line} names no choice of {group}; give {group}=… with one of {valid}"
    )


def _composed(command: str, overrides: Sequence[Override], loader: ConfigLoader) -> DictConfig:
    try:
        return compose(
            command, [override.input_line or "" for override in overrides], return_hydra_config=True
        )
    except MissingConfigException as error:
        raise ConfigurationError(_unknown_choice(error, overrides)) from error
    except HydraException as error:
        raise ConfigurationError(_refused(error, command, overrides, loader)) from error


def _unknown_choice(error: MissingConfigException, overrides: Sequence[Override]) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    options = list(error.options or [])
    others = _groups_that_have(choice, group, overrides)
    extra = _LAUNCHERS.get(choice) if group == "hydra/launcher" else None
    if extra is not None:
        return f"hydra/launcher={choice} is not installed: pip install 'lightning-compress[{extra}]'"
    hint = did_you_mean(choice, options)
    return f"{group}={choice} is unknown{hint}{others} Valid are {', '.join(options)}."


def _groups_that_have(choice: str, group: str, overrides: Sequence[Override]) -> str:
    """Where a choice belongs that was given to the wrong group."""
    loader = GlobalHydra.instance().config_loader()
    groups = [other for other in loader.list_groups("") if other not in (group, "hydra")]
    found = [other for other in groups if choice in loader.get_group_options(other)]
    return f" There is {' and '.join(f'{other}={choice}' for other in found)}." if found else ""


def _refused(error: HydraException, command: str, overrides: Sequence[Override], loader: ConfigLoader) -> str:
    """Why Hydra refuses to compose, in words that fit this command."""
    known = [group for group in _groups_of(command) if not group.startswith("hydra/")]
    for override in overrides:
        group = override.key_or_group
        if (
            loader.get_group_options(group)
            and "Could not override" in str(error)
            and f"'{group}'" in str(error)
        ):
            belongs = f"its groups are {', '.join(known)}" if known else "it has none"
            return f"{group} is no group of lightning-compress {command}; {belongs}."
    cause = error.__cause__
    detail = f": {str(cause).partition(chr(10))[0]}" if isinstance(cause, OmegaConfBaseException) else ""
    return f"{error}{detail}"


def _groups_of(command: str) -> Sequence[str]:
    return list(compose(command, return_hydra_config=True).hydra.runtime.choices)


def _require_known(override: Override, config: DictConfig, choices: Mapping[str, str | None]) -> None:
    """Refuse a key that the configuration does not have, unless it is added on purpose."""
    key = override.key_or_group
    if override.is_add() or override.is_force_add() or "[" in key:
        return
    parts = key.split(".")
    node: Any = config
    for place, part in enumerate(parts):
        if isinstance(node, ListConfig):
            return
        # `in` denies what is there and has no value yet.
        if not isinstance(node, DictConfig) or part not in list(node):
            raise ConfigurationError(_unknown_key(parts, place, node, config, choices))
        # Looked at as it stands: what it refers to may be missing still.
        node = node._get_node(part)
        if node is not None and node._is_interpolation():
            return


def _unknown_key(
    parts: Sequence[str], place: int, node: Any, config: DictConfig, choices: Mapping[str, str | None]
) -> str:
    key, parent = ".".join(parts), ".".join(parts[:place])
    if place == 0 and parts[0] in choices:
        return f"{key} cannot be set, because no {parts[0]} is chosen; choose one with {parts[0]}=…"
    names = [str(name) for name in node if name != "hydra"] if isinstance(node, DictConfig) else []
    valid = [
        name for name in dict.fromkeys([*names, *(choices if place == 0 else ())]) if not name.startswith("_")
    ]
    # The name alone may have been typed, or one a letter off.
    close = [full for full, _, _ in leaves(config) if full.endswith(f".{key}")] or [
        ".".join([*parts[:place], near, *parts[place + 1 :]]) for near in nearest(parts[place], valid, 1)
    ]
    hint = f"; did you mean {' or '.join(close[:3])}?" if close else "."
    where = f" in {parent}" if parent else ""
    listed = f" Valid{where} are {', '.join(valid)}." if valid else f" {parent} has no keys."
    return f"the key {key} is unknown{hint}{listed}{_how_to_add(node, key)}"


def _how_to_add(node: Any, key: str) -> str:
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return ""
    return f" Other arguments of {node._target_.rpartition('.')[2]} are added with +{key}=…"


def leaves(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig, Any]]:
    """Every key with a value of its own, Hydra's left out: its full name, the node it stands in, its key there.

    Nothing is resolved: what a value refers to may be missing still.
    """
    for key in list(config):
        # Keys may be numbers, as places in tuples are.
        if key == "hydra" and not prefix:
            continue
        closed = OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key)
        value = None if closed else config[key]
        if isinstance(value, DictConfig):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", config, key
