"""The errors of this package: each names the bad value, where it came from, and what is valid."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CompressionError(Exception):
    """Base class of every error that lightning-compress raises on purpose."""


class ConfigurationError(CompressionError, ValueError):
    """A key, a value or a combination of values that cannot be used."""


class ModuleNotFoundInModelError(CompressionError, LookupError):
    """A module path or a name pattern that matches nothing in the model."""


class TargetError(CompressionError, ValueError):
    """A deployment target that is unknown or cannot carry the compression asked for."""


class WeightError(CompressionError, ValueError):
    """A weight that holds NaN or infinity, or that a technique cannot compress."""


class TraceError(CompressionError, RuntimeError):
    """A module that `torch.fx` or `torch.jit.trace` cannot follow."""


class DataError(CompressionError, ValueError):
    """A data folder or an annotation file that is missing, empty or malformed."""


class PackageError(CompressionError, ValueError):
    """A Core ML package that is missing, damaged, or holds what cannot be read or run."""


class VerificationError(CompressionError, ArithmeticError):
    """A Core ML package that does not compute what the module does that it was made of."""


class StrategyError(CompressionError, RuntimeError):
    """A Lightning strategy or feature that would lose or corrupt the compression."""


def nearest(name: str, valid: Iterable[str], count: int = 3) -> list[str]:
    """The entries of `valid` that look most like `name`, best first.

    Example:
        >>> nearest("n_bit", ["n_bits", "granularity"])
        ['n_bits']
    """
    return difflib.get_close_matches(name, list(valid), n=count, cutoff=0.5)


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """How an error goes on after a name that is unknown; what is valid follows in the next sentence.

    Example:
        >>> f"n_bit is unknown{did_you_mean('n_bit', ['n_bits'])} Valid are n_bits."
        "n_bit is unknown; did you mean 'n_bits'? Valid are n_bits."
    """
    close = nearest(name, valid, 1)
    return f"; did you mean {close[0]!r}?" if close else "."
