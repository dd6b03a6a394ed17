"""A feature is one function, which fits and asserts.

One that returns says that the feature works; a `CompressionError` says that it is refused, and why.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.features.cases import Case


class Features(dict[str, Callable[[Case], None]]):
    """The features of one kind, by the title of their row in the matrix; decorates the functions that try them."""

    def __call__(self, title: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
        """Enter a function under a title."""

        def register(function: Callable[[Case], None]) -> Callable[[Case], None]:
            self[title] = function
            return function

        return register
