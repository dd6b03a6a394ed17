"""The page that `lightning-compress COMMAND --help` prints: the configuration files, made readable."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import MISSING, OmegaConf

from lightning_compress.command_line.commands import COMMANDS
from lightning_compress.command_line.comments import comments_of, heading_of, read_file
from lightning_compress.command_line.composing import FILLED_IN, Composition
from lightning_compress.command_line.values import as_typed

_COLUMN = 36
"""Where comments begin."""

_OPTIONS = {
    "--help": "this page; with choices before it, such as recipe=resnet50, with their keys",
    "--cfg job": "print the configuration and do nothing; --resolve fills its references in",
    "--multirun": "one job for each value of what is given as KEY=a,b",
    "--config-dir DIR": "a folder of your own choices for the groups, as DIR/compression/mine.yaml",
    "--hydra-help": "what else Hydra takes",
}


def overview() -> str:
    """The page of the program itself."""
    width = max(map(len, COMMANDS))
    lines = [
        "usage: lightning-compress COMMAND [KEY=VALUE ...]",
        "",
        *(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()),
        "",
        *(f"  {command.example}" for command in COMMANDS.values()),
        "",
        "lightning-compress COMMAND --help lists the groups and the keys of a command; --version prints the version.",
    ]
    return "\n".join(lines)


def page(command: str, composition: Composition) -> str:
    """The page of a command.

    Args:
        command: Its name.
        composition: Its configuration, with the choices that were given before `--help`.
    """
    told = COMMANDS[command]
    path = "" if told.path_key is None else f"[{told.path_key.upper()}] "
    groups = "[GROUP=CHOICE ...] " if composition.choices else ""
    parts = [
        f"usage: lightning-compress {command} {path}{groups}[KEY=VALUE ...]",
        _wrapped(heading_of(command) or told.summary, "", 0),
        f"  {told.example}",
    ]
    if composition.choices:
        parts.append("Groups, and their choices (* is chosen):\n\n" + "\n".join(_groups(composition)))
    parts.append("Keys, with these choices:\n\n" + "\n".join(_keys(command, composition)))
    width = max(map(len, _OPTIONS))
    parts.append("Options:\n\n" + "\n".join(f"  {name:<{width}}  {text}" for name, text in _OPTIONS.items()))
    return "\n\n".join(parts)


def _groups(composition: Composition) -> Iterator[str]:
    for group, options in composition.options.items():
        yield f"  {group}"
        width = max(map(len, options), default=0)
        for option in options:
            mark = "*" if composition.choices[group] == option else " "
            heading = heading_of(f"{group}/{option}")
            yield (
                _wrapped(heading, f"    {mark} {option:<{width}}  ", min(width + 8, 40))
                if heading
                else f"    {mark} {option}"
            )


def _keys(command: str, composition: Composition) -> Iterator[str]:
    content = OmegaConf.to_container(composition.config, resolve=False)
    assert isinstance(content, dict)
    config = {str(key): value for key, value in content.items() if key != "hydra"}
    comments = comments_of(command, composition.choices)
    # The command's own keys come first, as they stand in its file, then those of its groups.
    own = [name for name in read_file(command).names if name in config]
    was_block = False
    for place, key in enumerate(dict.fromkeys([*own, *config])):
        is_block = isinstance(config[key], dict)
        if place and (is_block or was_block):
            yield ""
        was_block = is_block
        yield from _entries(key, config[key], comments, COMMANDS[command].path_key)


def _entries(key: str, value: Any, comments: Mapping[str, str], path_key: str | None) -> Iterator[str]:
    comment = comments.get(key, "")
    if isinstance(value, dict) and value:
        if comment:
            yield _wrapped(comment, f"  {key}: ")
        for name, entry in value.items():
            # How an object is built is not for the command line.
            if not str(name).startswith("_"):
                yield from _entries(f"{key}.{name}", entry, comments, path_key)
    elif value != MISSING:
        yield _described(f"{key}={as_typed(value)}", comment)
    elif key.partition(".")[0] not in FILLED_IN:
        # What a group leaves open its classes need; of the command's own keys only that which it is about.
        needed = "has to be given. " if "." in key or key == path_key else ""
        yield _described(f"{key}=…", f"{needed}{comment}".strip())


def _described(entry: str, comment: str) -> str:
    start = f"  {entry}"
    if not comment:
        return start
    if len(start) < _COLUMN:
        return _wrapped(comment, f"{start:<{_COLUMN}}", _COLUMN)
    return f"{start}\n{_wrapped(comment, ' ' * _COLUMN, _COLUMN)}"


def _wrapped(text: str, start: str, indent: int = 8) -> str:
    return textwrap.fill(
        text,
        max(shutil.get_terminal_size((120, 24)).columns, 60),
        initial_indent=start,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
