"""What a user typed, sorted into overrides of the configuration and Hydra's own options."""

from __future__ import annotations

import os
from argparse import Action
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from lightning_compress.command_line.commands import COMMANDS
from lightning_compress.errors import ConfigurationError, did_you_mean

HELP = ("-h", "--help")

_OPENING = ("[", "{", "'", '"', "$")
"""How a value begins that is more than a plain text."""


@dataclass(frozen=True)
class Words:
    """The words after a command's name.

    Attributes:
        overrides: Those for the configuration, as Hydra reads them.
        options: Hydra's own, such as `--cfg job`.
        asks_for_help: Whether one of them is `--help`.
    """

    overrides: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    asks_for_help: bool = False


_OF_ONES_OWN = "recipe=module"

_ARGUMENTS = ("recipe.module.", "float_fit.module.", "compressed_fit.module.", "data.")

_NAMED_BY_USERS = ("curve.lengths.",)
"""Mappings whose keys no configuration lists."""


class UnknownOptionError(ConfigurationError):
    """A word that begins like an option and is none."""


def sort_words(command: str, words: Sequence[str]) -> Words:
    """Tell overrides from options, and complete what was typed in short.

    Args:
        command: A name in `COMMANDS`.
        words: What was typed after it.

    Raises:
        UnknownOptionError: An option that Hydra does not know.
        ConfigurationError: A word that is neither an option nor `KEY=VALUE`.
    """
    # Hydra has no public list of its options.
    options: Mapping[str, Action] = get_args_parser()._option_string_actions
    overrides: list[str] = []
    given: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in HELP:
            continue
        if not word.startswith("-"):
            overrides.append(_override(command, word))
            continue
        action = options.get(word.partition("=")[0])
        if action is None:
            raise UnknownOptionError(
                f"{word!r} is no option{did_you_mean(word, options)} Keys are given without dashes, as KEY=VALUE; "
                f"lightning-compress {command} --help lists them."
            )
        given.append(word)
        if "=" not in word and rest and _takes(action, rest[0]):
            given.append(rest.pop(0))
    return Words(_with_own_arguments(overrides), given, any(word in HELP for word in words))


def _with_own_arguments(overrides: list[str]) -> list[str]:
    """Keys that no configuration lists: the arguments of a module of one's own and of its data, names of points."""
    added = _NAMED_BY_USERS + (_ARGUMENTS if _OF_ONES_OWN in overrides else ())
    return [f"++{word}" if word.startswith(added) else word for word in overrides]


def _takes(action: Action, word: str) -> bool:
    """Whether an option takes the word that follows it."""
    if action.nargs == 0:
        return False
    return action.nargs is None or word in (action.choices or ())


def _override(command: str, word: str) -> str:
    key = COMMANDS[command].path_key
    if key is not None and ("=" not in word or os.path.exists(word)):
        return f"{key}={quoted(word)}"
    if word.startswith("="):
        raise ConfigurationError(f"{word!r} has no key before its '='")
    if "=" not in word and not word.startswith("~"):
        raise ConfigurationError(
            f"{word!r} has no '='; lightning-compress {command} takes KEY=VALUE, and "
            f"lightning-compress {command} --help lists the keys"
        )
    return _readable(word)


def _readable(word: str) -> str:
    """The word, with its value in quotes where Hydra would stumble over a path such as `epoch=1-step=200.ckpt`."""
    reason = _complaint(word)
    if reason is None:
        return word
    key, _, value = word.partition("=")
    if not value.startswith(_OPENING):
        in_quotes = f"{key}={quoted(value)}"
        if _complaint(in_quotes) is None:
            return in_quotes
    raise ConfigurationError(
        f"{word!r} cannot be read: {reason}. Lists are written [1,2], texts with brackets or quotes in them '…', in "
        "quotes of the shell around the whole"
    )


def _complaint(word: str) -> str | None:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException as error:
        return str(error).partition("\n")[0]
    return None


def quoted(text: str) -> str:
    """A text in Hydra's quotes: whatever is in it, it stays that text."""
    return QuotedString(text, Quote.single).with_quotes()
