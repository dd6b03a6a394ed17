"""The comments of the configuration files, by key: what a help page says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files

import yaml

CONFIGURATIONS = "lightning_compress.conf"


@dataclass(frozen=True)
class Commented:
    """The comments of one file.

    Attributes:
        heading: What stands at its top.
        keys: What stands above and behind each key, by dotted name.
        inherits: Names of the files of the same group that it builds on.
        names: The keys at its top, in their order.
        is_global: Whether its keys are those of the whole configuration, and not of its group.
    """

    heading: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    inherits: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    is_global: bool = False


def comments_of(command: str, choices: Mapping[str, str | None]) -> dict[str, str]:
    """The comments of every key of a command's configuration.

    Args:
        command: Name of the command.
        choices: What is chosen of each group.
    """
    found = dict(read_file(command).keys)
    for group, choice in choices.items():
        if choice is not None:
            found |= _of_choice(group, choice)
    return found


def heading_of(path: str) -> str:
    """What a file says of itself; empty where it is not one of this package's."""
    return read_file(path).heading


def read_file(path: str) -> Commented:
    """Read one of this package's configuration files.

    Args:
        path: Below the folder of configurations, without the suffix, such as `recipe/resnet50`.
    """
    file = files(CONFIGURATIONS).joinpath(f"{path}.yaml")
    return read_comments(file.read_text(encoding="utf-8")) if file.is_file() else Commented()


def _of_choice(group: str, choice: str) -> dict[str, str]:
    commented = read_file(f"{group}/{choice}")
    found: dict[str, str] = {}
    for parent in commented.inherits:
        found |= _of_choice(group, parent)
    prefix = "" if commented.is_global else f"{group.replace('/', '.')}."
    return found | {f"{prefix}{key}": comment for key, comment in commented.keys.items()}


def read_comments(text: str) -> Commented:
    """Read the comments of a configuration: PyYAML says where keys are, and drops what stands beside them.

    Args:
        text: A configuration file in YAML whose top is a mapping.
    """
    lines = text.splitlines()
    top: list[str] = []
    for line in lines:
        if not line.startswith("#"):
            break
        top.append(line)
    is_global = any(line.startswith("# @package _global_") for line in top)
    heading = _joined(line for line in top if "@package" not in line)
    node = yaml.compose(text)
    if not isinstance(node, yaml.MappingNode):
        return Commented(heading, is_global=is_global)
    names = tuple(key.value for key, _ in node.value)
    return Commented(heading, dict(_comments(node, lines, len(top), "")), _inherits(node), names, is_global)


def _comments(node: yaml.MappingNode, lines: list[str], top: int, prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in node.value:
        name, line = f"{prefix}{key.value}", key.start_mark.line
        above = _above(lines, line, key.start_mark.column, top)
        # The value of a block begins on a line of its own.
        end = value.end_mark if isinstance(value, yaml.ScalarNode) or value.flow_style else key.end_mark
        behind = lines[line][end.column if end.line == line else key.end_mark.column :].lstrip(": ")
        comment = _joined([*above, behind] if behind.startswith("#") else above)
        if comment:
            yield name, comment
        if isinstance(value, yaml.MappingNode):
            yield from _comments(value, lines, top, f"{name}.")


def _above(lines: list[str], line: int, column: int, top: int) -> list[str]:
    """The comment lines that end right above a line, as far indented as its key."""
    first = line
    while first > top and lines[first - 1].startswith(f"{' ' * column}#"):
        first -= 1
    return lines[first:line]


def _joined(comments: Iterator[str] | list[str]) -> str:
    return " ".join(comment.strip().lstrip("#").strip() for comment in comments).strip()


def _inherits(node: yaml.MappingNode) -> tuple[str, ...]:
    """The plain names in a defaults list: files of the same group."""
    for key, value in node.value:
        if key.value == "defaults" and isinstance(value, yaml.SequenceNode):
            names = [entry.value for entry in value.value if isinstance(entry, yaml.ScalarNode)]
            return tuple(name for name in names if name != "_self_")
    return ()
