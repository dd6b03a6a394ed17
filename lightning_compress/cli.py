"""The command `lightning-compress`: picks the subcommand and leaves the rest to Hydra."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig
from rich.console import Console

from lightning_compress.errors import CompressionError, did_you_mean

COMMANDS = {
    "train": "train a recipe, compress it, export packages, and compare their size and quality",
    "export": "write the package of a checkpoint, without training",
    "inspect": "show what a Core ML package holds: operations, weights, compression, inputs and outputs",
    "verify": "compare a Core ML package with its torch model, output by output and by its metric",
}

_USAGE = "usage: lightning-compress COMMAND [KEY=VALUE ...]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand; what follows its name are Hydra overrides and Hydra's own options.

    Args:
        arguments: The words after the program's name; `sys.argv` by default.

    Raises:
        SystemExit: With 2 for a wrong command and 1 for an error that says what is wrong.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        raise SystemExit(0)
    if words[0] not in COMMANDS:
        hint = did_you_mean(words[0], COMMANDS)
        print(
            f"{_USAGE}\nlightning-compress: unknown command {words[0]!r}{hint} Valid are {', '.join(COMMANDS)}.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    _run(words[0], words[1:])


def _help() -> str:
    width = max(len(name) for name in COMMANDS)
    rows = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [_USAGE, "", *rows, "", "lightning-compress COMMAND --help lists the keys and groups of a command."]
    )


def _run(command: str, overrides: list[str]) -> None:
    function: Callable[[DictConfig], object] = importlib.import_module(
        f"lightning_compress.commands.{command}"
    ).run
    given = [sys.argv[0], command, *overrides]

    def job(config: DictConfig) -> None:
        # Lightning starts the other processes of a DDP fit with these words, the command among them.
        sys.argv = given
        # Lightning 2.6 asks torch 2.14's pytree in a way that torch deprecates: no user can act on it.
        warnings.filterwarnings(
            "ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning
        )
        try:
            function(config)
        except CompressionError as error:
            _fail(error)
        except InstantiationException as error:
            cause = _cause(error)
            if cause is None:
                raise
            _fail(cause)

    sys.argv = [sys.argv[0], *overrides]
    hydra.main(version_base="1.3", config_path="pkg://lightning_compress.conf", config_name=command)(job)()


def _fail(error: CompressionError) -> None:
    Console(stderr=True, highlight=False).print(f"[bold red]{type(error).__name__}:[/] ", end="")
    print(error, file=sys.stderr)
    raise SystemExit(1)


def _cause(error: BaseException) -> CompressionError | None:
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, CompressionError):
            return current
        current = current.__cause__ or current.__context__
    return None


if __name__ == "__main__":
    main()
