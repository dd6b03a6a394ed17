"""What a user asked of a technique, checked and matched against the modules of a model.

The keys are those of coremltools' own configurations (`global_config`, `module_type_configs`,
`module_name_configs`), with the same precedence: name, then type, then global.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import attrs
import torch
import yaml
from torch import nn

from lightning_compress.errors import ConfigurationError, ModuleNotFoundInModelError, nearest

_SECTIONS = ("global_config", "module_type_configs", "module_name_configs")


def plain(value: Any) -> Any:
    """Copy nested mappings and sequences (OmegaConf's among them) into plain dicts and lists."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(entry) for entry in value)
    if isinstance(value, Iterable) and not isinstance(value, str | bytes) and hasattr(value, "__len__"):
        return [plain(entry) for entry in value]
    return value


@dataclass(frozen=True)
class Schema:
    """The keys that a technique knows.

    Attributes:
        technique: Name of the technique, for messages.
        module_class: coremltools' attrs class for the configuration of one module.
        module_types: The types of module that the technique compresses.
        any_operation: Types in `module_type_configs` may name functions and operators too.
        extra_keys: Keys of the whole configuration beside the three sections.
        own_keys: Keys of a module's configuration that are ours, not coremltools'.
    """

    technique: str
    module_class: type
    module_types: tuple[type[nn.Module], ...]
    any_operation: bool = False
    extra_keys: tuple[str, ...] = ()
    own_keys: tuple[str, ...] = ()

    @property
    def module_keys(self) -> list[str]:
        """The keys valid in the configuration of one module."""
        return sorted(
            {item.name for item in attrs.fields(self.module_class) if item.init} | set(self.own_keys)
        )

    def check_keys(self, entry: Any, source: str) -> dict[str, Any]:
        """Return the configuration of one module as a dict.

        Raises:
            ConfigurationError: It is no mapping, or has a key that the technique does not know.
        """
        if not isinstance(entry, Mapping):
            raise ConfigurationError(
                f"{source} is {entry!r}; valid is a mapping of {self.module_keys}, or null to exclude"
            )
        for key in entry:
            if key not in self.module_keys:
                raise ConfigurationError(nearest_key(key, source, self.module_keys))
        return dict(entry)

    def module_type(self, key: Any, source: str) -> Any:
        """The class that a key of `module_type_configs` names.

        Raises:
            ConfigurationError: The technique does not compress such modules.
        """
        if self.any_operation:
            return key
        for module_type in self.module_types:
            if key is module_type or key in (module_type.__name__, f"torch.nn.{module_type.__name__}"):
                return module_type
        valid = [module_type.__name__ for module_type in self.module_types]
        raise ConfigurationError(
            f"{source} has the module type {key!r}, which {self.technique} does not compress; valid are {valid}"
        )


def nearest_key(key: str, source: str, valid: Iterable[str]) -> str:
    """The message for a key that `source` does not know: the most alike, and all valid ones."""
    valid = list(valid)
    close = nearest(str(key), valid)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"unknown key {key!r} in {source}{hint} valid are {valid}"


@dataclass(frozen=True)
class Configuration:
    """A parsed configuration; `None` in place of a module's keys excludes the module.

    Attributes:
        schema: The keys that the technique knows.
        global_config: Keys for every module that nothing else names, or `None`.
        by_type: Keys by module class.
        by_name: Keys by regular expression, matched against the whole dotted name of a module.
        extra: Keys of the whole configuration.
    """

    schema: Schema
    global_config: dict[str, Any] | None
    by_type: dict[Any, dict[str, Any] | None] = field(default_factory=dict)
    by_name: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, schema: Schema, given: Mapping[str, Any]) -> Configuration:
        """Sort the keyword arguments of a technique into sections.

        Keys of a single module given at the top are the global ones. As in coremltools, giving only configurations
        by type or name compresses only what they name; where they only exclude, everything else takes the defaults.

        Raises:
            ConfigurationError: Unknown keys, global keys given twice, invalid patterns.
        """
        given = plain(given)
        top_valid = [*schema.module_keys, *_SECTIONS, *schema.extra_keys]
        for key in given:
            if key not in top_valid:
                raise ConfigurationError(nearest_key(key, schema.technique, top_valid))
        flat = {key: value for key, value in given.items() if key in schema.module_keys}
        explicit = given.get("global_config", flat if flat else None)
        if flat and given.get("global_config"):
            raise ConfigurationError(
                f"{schema.technique} has global keys twice: {sorted(flat)} beside global_config; give one of them"
            )
        by_type = {
            schema.module_type(key, "module_type_configs"): None
            if entry is None
            else schema.check_keys(entry, f"module_type_configs[{key!r}]")
            for key, entry in (given.get("module_type_configs") or {}).items()
        }
        by_name: dict[str, dict[str, Any] | None] = {}
        for pattern, entry in (given.get("module_name_configs") or {}).items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigurationError(
                    f"module_name_configs has the pattern {pattern!r}, which is no regular expression: {error}"
                ) from None
            by_name[pattern] = (
                None if entry is None else schema.check_keys(entry, f"module_name_configs[{pattern!r}]")
            )
        only_excludes = all(entry is None for entry in (*by_type.values(), *by_name.values()))
        if explicit is None and only_excludes and "global_config" not in given:
            explicit = {}
        return cls(
            schema,
            None if explicit is None else schema.check_keys(explicit, "global_config"),
            by_type,
            by_name,
            {key: given[key] for key in schema.extra_keys if key in given},
        )

    def map_modules(self, build: Any) -> None:
        """Call `build(keys, source)` for each section that is not an exclusion, to check its values early."""
        if self.global_config is not None:
            build(self.global_config, f"{self.schema.technique}, global")
        for key, entry in (*self.by_type.items(), *self.by_name.items()):
            if entry is not None:
                name = key.__name__ if isinstance(key, type) else key
                build(entry, f"{self.schema.technique}, {name!r}")

    def keys_for(self, name: str, module: nn.Module) -> tuple[dict[str, Any] | None, str | None]:
        """The keys that hold for a module, and the name pattern that gave them (if one did)."""
        for pattern, entry in self.by_name.items():
            if re.fullmatch(pattern, name):
                return entry, pattern
        if type(module) in self.by_type:
            return self.by_type[type(module)], None
        return self.global_config, None

    def check_patterns(self, root: nn.Module) -> None:
        """Refuse name patterns that match no module, or none that the technique can compress.

        Raises:
            ModuleNotFoundInModelError: With the nearest names.
        """
        names = {name: module for name, module in root.named_modules() if name}
        compressible = [
            name for name, module in names.items() if isinstance(module, self.schema.module_types)
        ]
        for pattern, entry in self.by_name.items():
            matched = [name for name in names if re.fullmatch(pattern, name)]
            if not matched:
                close = nearest(pattern, names)
                hint = f"the nearest are {close}" if close else f"the first are {list(names)[:5]}"
                raise ModuleNotFoundInModelError(
                    f"module_name_configs[{pattern!r}] of {self.schema.technique} matches no module; names are regular "
                    f"expressions matched against the whole dotted name, and of {len(names)} modules {hint}"
                )
            if entry is not None and not self.schema.any_operation and not set(matched) & set(compressible):
                kinds = sorted({type(names[name]).__name__ for name in matched})
                valid = [module_type.__name__ for module_type in self.schema.module_types]
                raise ModuleNotFoundInModelError(
                    f"module_name_configs[{pattern!r}] of {self.schema.technique} matches only {matched[:3]} of type "
                    f"{kinds}; {self.schema.technique} compresses {valid}"
                )

    def describe(self) -> dict[str, Any]:
        """The configuration as plain types that a checkpoint can hold and another run can compare."""
        return {
            "technique": self.schema.technique,
            "global_config": _describe(self.global_config),
            "module_type_configs": {_name(key): _describe(entry) for key, entry in self.by_type.items()},
            "module_name_configs": {key: _describe(entry) for key, entry in self.by_name.items()},
            **{key: _describe(value) for key, value in self.extra.items()},
        }


def _name(key: Any) -> str:
    """A type or function as the string that stands for it in `module_type_configs`."""
    if isinstance(key, type):
        return key.__name__
    if callable(key):
        return f"{'torch' if key.__module__ is None else key.__module__.lstrip('_')}.{key.__name__}"
    return str(key)


def _describe(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _describe(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_describe(entry) for entry in value]
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    value = getattr(value, "value", value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def read_yaml(source: str | Path | IO[str]) -> dict[str, Any]:
    """Read a configuration in coremltools' YAML form from a path or an open file.

    Raises:
        ConfigurationError: The file is missing, is not YAML, or holds no mapping.
    """
    try:
        content = yaml.safe_load(
            Path(source).read_text() if isinstance(source, str | Path) else source.read()
        )
    except OSError as error:
        raise ConfigurationError(f"the configuration {source} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"the configuration {source} is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"the configuration {source} holds {type(content).__name__}; valid is a mapping"
        )
    return content
