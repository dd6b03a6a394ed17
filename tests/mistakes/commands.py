"""Mistakes that are typed after `lightning-compress`, each in a process of its own."""

from __future__ import annotations

from tests.mistakes.bench import Mistake

COMMANDS = [
    Mistake("a command misspelt", "unknown command 'trian'; did you mean 'train'", words=("trian",)),
    Mistake("no package to inspect", "package is empty", words=("inspect",)),
    Mistake("a package that is missing", "none.mlpackage", words=("inspect", "package=none.mlpackage")),
]
