"""Arguments of a wrong type are refused where they are given, not where they are first used."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning_compress.errors import ConfigurationError

LARGEST_SEED = 2**32 - 1
"""What numpy takes."""

_LENGTH = 60
"""Characters that are shown of a value."""


def require_type(
    argument: str, value: Any, kinds: type | tuple[type, ...], valid: str, *, optional: bool = False
) -> None:
    """Raise unless a value is of a type.

    Args:
        argument: What was given, as errors name it.
        value: Its value.
        kinds: The types; a bool counts as a number nowhere.
        valid: What is valid, in words.
        optional: Whether None is valid too.

    Raises:
        ConfigurationError: With the value, its type, and what is valid.
    """
    if value is None and optional:
        return
    accepted = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        raise refusal(argument, value, valid)


def require_number(argument: str, value: Any, valid: str = "a finite number") -> None:
    """Raise unless a value is a finite real number.

    Raises:
        ConfigurationError: With the value and what is valid.
    """
    require_type(argument, value, numbers.Real, valid)
    if not math.isfinite(value):
        raise refusal(argument, value, valid)


def require_whole(argument: str, value: Any, least: int) -> None:
    """Raise unless a value is a whole number from `least` on.

    Raises:
        ConfigurationError: With the value and what is valid.
    """
    valid = f"a whole number from {least} on"
    require_type(argument, value, numbers.Integral, valid)
    if value < least:
        raise refusal(argument, value, valid)


def require_seed(value: Any) -> None:
    """Raise unless a value can be the seed of all generators of random numbers.

    Raises:
        ConfigurationError: With the value and what is valid.
    """
    valid = f"a whole number from 0 to {LARGEST_SEED}"
    require_type("seed", value, numbers.Integral, valid)
    if not 0 <= value <= LARGEST_SEED:
        raise refusal("seed", value, valid)


def require_flag(argument: str, value: Any) -> None:
    """Raise unless a value is True or False.

    Raises:
        ConfigurationError: With the value.
    """
    require_type(argument, value, bool, "True or False")


def require_path(argument: str, value: Any, example: str) -> None:
    """Raise unless a value can be the path of a file.

    Raises:
        ConfigurationError: With the value and an example.
    """
    valid = f"a path such as {example!r}"
    require_type(argument, value, (str, os.PathLike), valid)
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise refusal(argument, value, valid)


def require_names(argument: str, value: Any) -> None:
    """Raise unless a value is a list or tuple of texts, or None.

    Raises:
        ConfigurationError: With the value, or with what is no text in it.
    """
    if isinstance(value, str):
        raise ConfigurationError(f"{argument}={value!r} is a string; give a list of names")
    require_type(argument, value, Sequence, "a list of names", optional=True)
    for name in value or ():
        require_type(f"a name in {argument}", name, str, "a text")


def require_texts_by_key(argument: str, value: Any) -> None:
    """Raise unless a value is a mapping from texts to texts, or None.

    Raises:
        ConfigurationError: With the value, or with what is no text in it.
    """
    require_type(argument, value, Mapping, "a mapping from names to texts", optional=True)
    for key, text in (value or {}).items():
        require_type(f"a key of {argument}", key, str, "a text")
        require_type(f"{argument}[{key!r}]", text, str, "a text")


def require_one_of(argument: str, value: Any, valid: Iterable[str]) -> None:
    """Raise unless a value is one of several texts.

    Raises:
        ConfigurationError: With the value and all valid ones.
    """
    choices = list(valid)
    if not isinstance(value, str) or value not in choices:
        raise ConfigurationError(f"{argument}={shown(value)} is unknown; valid are {', '.join(choices)}")


def refusal(argument: str, value: Any, valid: str) -> ConfigurationError:
    """The error for an argument that cannot be used."""
    return ConfigurationError(f"{argument}={shown(value)}; valid is {valid}")


def shown(value: Any) -> str:
    """A value as errors show it: short, and with its type where that does not show."""
    if isinstance(value, type):
        return f"{value.__name__} (a class)"
    try:
        text = repr(value)
    except Exception:
        text = ""
    text = " ".join(text.split())
    if not text or len(text) > _LENGTH:
        text = f"{text[:_LENGTH]}..." if text else "something"
    plain = value is None or isinstance(value, str | bytes | bool | int | float | list | tuple | dict)
    return text if plain else f"{text} (of type {type(value).__name__})"
