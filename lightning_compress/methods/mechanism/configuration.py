"""What a user asked of a technique, checked and matched against the tensors of a model.

The keys are those of coremltools' own configurations (`global_config`, `module_type_configs`,
`module_name_configs`), with the same precedence: name, then type, then global.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import yaml
from torch import nn

from lightning_compress.arguments import refusal, require_path, shown
from lightning_compress.errors import ConfigurationError, nearest
from lightning_compress.methods.mechanism.layers import KIND_NAMES, layer_kind, type_names
from lightning_compress.methods.mechanism.tensors import TensorReference

_SECTIONS = ("global_config", "module_type_configs", "module_name_configs")

Keys = dict[str, Any]
"""Keys that were given for a tensor; those left out have their defaults."""


def plain(value: Any) -> Any:
    """Copy nested mappings, sequences and arrays (OmegaConf's, numpy's and torch's among them) into plain types."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
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
        options: Dataclass with a field for each key of one tensor's configuration, and its default.
        extra_keys: Keys of the whole configuration beside the three sections.
        other_types: Whether `module_type_configs` may exclude types and functions that hold no weights.
        by_size: The key by whose value one of several entries for the same tensors is chosen, if there is one: the
            entry with the largest value below the tensor's number of elements.
    """

    technique: str
    options: type
    extra_keys: tuple[str, ...] = ()
    other_types: bool = False
    by_size: str | None = None

    @property
    def tensor_keys(self) -> list[str]:
        """The keys valid in the configuration of one tensor."""
        return sorted(item.name for item in dataclasses.fields(self.options))

    def check_keys(self, entry: Any, source: str) -> Keys:
        """Return the configuration of one tensor as a dict.

        Raises:
            ConfigurationError: It is no mapping, or has a key that the technique does not know.
        """
        if not isinstance(entry, Mapping):
            raise ConfigurationError(
                f"{source} is {entry!r}; valid is a mapping of {self.tensor_keys}, or null to exclude"
            )
        for key in entry:
            if key not in self.tensor_keys:
                raise ConfigurationError(nearest_key(key, source, self.tensor_keys))
        return dict(entry)


def nearest_key(key: str, source: str, valid: Iterable[str]) -> str:
    """The message for a key that `source` does not know: the most alike, and all valid ones."""
    valid = list(valid)
    close = nearest(str(key), valid)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"unknown key {key!r} in {source}{hint} valid are {valid}"


@dataclass(frozen=True)
class Section:
    """The entries for what one key names, none to exclude it; several are told apart by size."""

    entries: tuple[Keys, ...]

    def keys_for(self, numel: int, by_size: str | None) -> Keys | None:
        """The keys for a tensor of `numel` elements, or None if it is excluded."""
        if len(self.entries) < 2 or by_size is None:
            return self.entries[0] if self.entries else None
        ascending = sorted(self.entries, key=lambda entry: entry.get(by_size, 0))
        fitting = [entry for entry in ascending if numel > entry.get(by_size, 0)]
        return fitting[-1] if fitting else ascending[0]


@dataclass(frozen=True)
class Match:
    """What a configuration says of a tensor.

    Attributes:
        keys: The keys that hold, or None if it is excluded or nothing names it.
        source: Which section gave them ("module_name_configs['head']"), None for the global one.
        is_exclusion: Whether a section excludes it.
    """

    keys: Keys | None
    source: str | None = None
    is_exclusion: bool = False


Enclosing = Sequence[tuple[str, nn.Module]]
"""Modules around another with their dotted names, the nearest first."""


def name_source(pattern: str) -> str:
    """What a section by name is called in messages."""
    return f"module_name_configs[{pattern!r}]"


def type_source(name: str) -> str:
    """What a section by type is called in messages."""
    return f"module_type_configs[{name!r}]"


@dataclass(frozen=True)
class Configuration:
    """A parsed configuration.

    Attributes:
        schema: The keys that the technique knows.
        everything: Keys for every layer that nothing else names, or None.
        by_type: By name of a module's type.
        by_name: By regular expression, matched against whole dotted names of modules and of tensors.
        extra: Keys of the whole configuration.
    """

    schema: Schema
    everything: Section | None
    by_type: dict[str, Section] = field(default_factory=dict)
    by_name: dict[str, Section] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, schema: Schema, given: Mapping[str, Any]) -> Configuration:
        """Sort the keyword arguments of a technique into sections.

        Keys of a single tensor given at the top are the global ones. As in coremltools, giving only configurations
        by type or name compresses only what they name; where they only exclude, everything else takes the defaults.

        Raises:
            ConfigurationError: Unknown keys, global keys given twice, sections of a wrong type, invalid patterns.
        """
        given = plain(given)
        top_valid = [*schema.tensor_keys, *_SECTIONS, *schema.extra_keys]
        for key in given:
            if key not in top_valid:
                raise ConfigurationError(nearest_key(key, schema.technique, top_valid))
        flat = {key: value for key, value in given.items() if key in schema.tensor_keys}
        explicit = given.get("global_config", flat if flat else None)
        if flat and "global_config" in given:
            raise ConfigurationError(
                f"{schema.technique} has global keys twice: {sorted(flat)} beside global_config; give one of them"
            )
        by_type = {
            _type_name(key, schema): _section(schema, entry, f"module_type_configs[{key!r}]")
            for key, entry in _mapping(given, "module_type_configs", schema).items()
        }
        by_name = {
            _pattern(key): _section(schema, entry, f"module_name_configs[{key!r}]")
            for key, entry in _mapping(given, "module_name_configs", schema).items()
        }
        only_excludes = not any(section.entries for section in (*by_type.values(), *by_name.values()))
        if explicit is None and only_excludes and "global_config" not in given:
            explicit = {}
        everything = None if explicit is None else _section(schema, explicit, "global_config")
        extra = {key: given[key] for key in schema.extra_keys if key in given}
        return cls(schema, everything, by_type, by_name, extra)

    def entries(self) -> Iterator[tuple[Keys, str]]:
        """The keys of each section that is not an exclusion, and where they come from."""
        if self.everything is not None:
            for keys in self.everything.entries:
                yield keys, f"{self.schema.technique}, global"
        for name, section in (*self.by_type.items(), *self.by_name.items()):
            for keys in section.entries:
                yield keys, f"{self.schema.technique}, {name!r}"

    def match(self, reference: TensorReference) -> Match:
        """What the configuration says of a tensor, by name, then by type, then globally.

        A module that is named, or whose type is, stands for all layers in it, and the nearest to a tensor counts.
        coremltools does so where it quantizes, and does nothing at all where it prunes or palettizes.
        """
        names = (*reference.aliases, *reference.names)
        types = [
            name
            for owner in reference.owners
            for module in (owner.part_of, owner.module)
            if module is not None
            for name in type_names(module)
        ]
        return self._match(
            names, types, reference.enclosing, reference.numel, is_layer=reference.kind is not None
        )

    def match_layer(self, aliases: Iterable[str], module: nn.Module, enclosing: Enclosing) -> Match:
        """What the configuration says of a layer, or of another module that it means itself, whatever its weights."""
        return self._match(aliases, type_names(module), enclosing, 0, is_layer=layer_kind(module) is not None)

    def _match(
        self, names: Iterable[str], types: Iterable[str], enclosing: Enclosing, numel: int, *, is_layer: bool
    ) -> Match:
        match = self._by_name(names, numel)
        for name, _ in enclosing:
            match = match or self._inherited(self._by_name([name] if name else [], numel), is_layer)
        match = match or self._by_type(types, numel)
        for _, module in enclosing:
            match = match or self._inherited(self._by_type(type_names(module), numel), is_layer)
        if match is not None:
            return match
        if self.everything is None or not is_layer:
            return Match(None)
        return Match(self.everything.keys_for(numel, self.schema.by_size))

    def _by_name(self, names: Iterable[str], numel: int) -> Match | None:
        names = list(names)
        for pattern, section in self.by_name.items():
            if any(re.fullmatch(pattern, name) for name in names):
                return self._chosen(section, numel, name_source(pattern))
        return None

    def _by_type(self, types: Iterable[str], numel: int) -> Match | None:
        for name in types:
            if name in self.by_type:
                return self._chosen(self.by_type[name], numel, type_source(name))
        return None

    @staticmethod
    def _inherited(match: Match | None, is_layer: bool) -> Match | None:
        # Parameters of no known layer are compressed where they are meant themselves, and nowhere else.
        return match if match is None or is_layer or match.is_exclusion else None

    def _chosen(self, section: Section, numel: int, source: str) -> Match:
        keys = section.keys_for(numel, self.schema.by_size)
        return Match(keys, source, is_exclusion=keys is None)

    def describe(self) -> dict[str, Any]:
        """The configuration as plain types that a checkpoint can hold and another run can compare."""
        return {
            "technique": self.schema.technique,
            "global_config": _describe_section(self.everything),
            "module_type_configs": {key: _describe_section(entry) for key, entry in self.by_type.items()},
            "module_name_configs": {key: _describe_section(entry) for key, entry in self.by_name.items()},
            **{key: _describe(value) for key, value in self.extra.items()},
        }


def _mapping(given: Mapping[str, Any], key: str, schema: Schema) -> Mapping[Any, Any]:
    value = given.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{key} of {schema.technique} is {value!r}; valid is a mapping to the keys {schema.tensor_keys}, or to null"
        )
    return value


def _section(schema: Schema, entry: Any, source: str) -> Section:
    if entry is None:
        return Section(())
    if isinstance(entry, list) and schema.by_size is not None and entry:
        return Section(tuple(schema.check_keys(part, source) for part in entry))
    return Section((schema.check_keys(entry, source),))


def _pattern(pattern: Any) -> str:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ConfigurationError(
            f"module_name_configs has the pattern {pattern!r}, which is no regular expression: {error}"
        ) from None
    return str(pattern)


def _type_name(key: Any, schema: Schema) -> str:
    """The name that stands for a key of `module_type_configs`."""
    if isinstance(key, type) and issubclass(key, nn.Module):
        return (
            key.__qualname__
            if key.__module__.startswith("torch.nn.")
            else f"{key.__module__}.{key.__qualname__}"
        )
    if isinstance(key, str) and key:
        return key.removeprefix("torch.nn.") if key.count(".") == 2 and key.startswith("torch.nn.") else key
    if callable(key) and schema.other_types:
        return f"{'torch' if key.__module__ is None else key.__module__.lstrip('_')}.{key.__name__}"
    raise ConfigurationError(
        f"module_type_configs of {schema.technique} has the key {key!r}; valid are classes of modules and their names, "
        f"such as {', '.join(KIND_NAMES)}"
    )


def _describe_section(section: Section | None) -> Any:
    if section is None or not section.entries:
        return None
    described = [_describe(keys) for keys in section.entries]
    return described if len(described) > 1 else described[0]


def _describe(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _describe(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_describe(entry) for entry in value]
    value = unwrapped(value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def unwrapped(value: Any) -> Any:
    """The plain value of an enum's member, and the bare name of a torch type: both come from Python configurations."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return getattr(value, "value", value)


def read_yaml(source: str | Path | IO[str]) -> dict[str, Any]:
    """Read a configuration in coremltools' YAML form from a path or an open file.

    Raises:
        ConfigurationError: The file is missing, is not YAML, or holds no mapping.
    """
    if isinstance(source, str | Path):
        require_path("source", source, "compression.yaml")
    elif not callable(getattr(source, "read", None)) or isinstance(source, type):
        raise refusal("source", source, "the path of a YAML file, or an open one")
    try:
        content = yaml.safe_load(
            Path(source).read_text(encoding="utf-8") if isinstance(source, str | Path) else source.read()
        )
    except OSError as error:
        raise ConfigurationError(f"the configuration {source} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigurationError(f"the configuration {source} is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigurationError(
            f"the configuration {source} holds {shown(content)}; valid is a mapping of keys"
        )
    return content
