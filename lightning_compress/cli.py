"""The command `lightning-compress`: looks at the words, answers mistakes at once, and leaves the rest to Hydra.

Importing this must stay cheap: torch is loaded with a subcommand, once its words have been found good.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import lightning_compress
from lightning_compress.command_line.commands import COMMANDS
from lightning_compress.command_line.loading import INTERRUPTED, ends_at_once_when_interrupted
from lightning_compress.console import FILE_WIDTH
from lightning_compress.errors import CompressionError, ConfigurationError, did_you_mean
from lightning_compress.import_messages import silence_tips

if TYPE_CHECKING:
    from hydra.errors import InstantiationException
    from omegaconf import DictConfig

    from lightning_compress.command_line.words import Words

_OPTIONS = ("--help", "--version")
"""What stands alone, without a command."""

_OF_THE_MACHINE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""Errors of the file system that are no fault of this program: no permission, no space."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand; what follows its name are a path, Hydra overrides and Hydra's own options.

    Args:
        arguments: The words after the program's name; `sys.argv` by default.

    Raises:
        SystemExit: With 2 for a wrong command or option, 1 for an error that says what is wrong, and 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        from lightning_compress.command_line.help_page import overview

        _show(overview())
        raise SystemExit(0)
    if words[0] in ("-V", "--version"):
        print(f"lightning-compress {lightning_compress.__version__}")
        raise SystemExit(0)
    if words[0].startswith("-"):
        _refuse(
            f"{words[0]!r} is no option{did_you_mean(words[0], _OPTIONS)} Valid without a command are "
            f"{' and '.join(_OPTIONS)}."
        )
    if words[0] not in COMMANDS:
        _refuse(
            f"unknown command {words[0]!r}{did_you_mean(words[0], COMMANDS)} Valid are {', '.join(COMMANDS)}."
        )
    try:
        _run(words[0], words[1:])
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def _run(command: str, typed: list[str]) -> None:
    # Classes of one's own are named from the folder that the command is typed in, as with `python -m`.
    if "" not in sys.path:
        # Whichever folder that is: a resumed job goes back to where it was begun.
        sys.path.insert(0, "")
    words = _looked_at(command, typed)
    typed_to_program = sys.argv
    given = [sys.argv[0], command, *typed]

    def job(config: DictConfig) -> None:
        # Lightning starts the other processes of a DDP fit with these words, the command among them.
        sys.argv = given
        with ends_at_once_when_interrupted():
            module = importlib.import_module(f"lightning_compress.commands.{command}")
        function: Callable[[DictConfig], object] = module.run
        # Lightning 2.6 asks torch 2.14's pytree in a way that torch deprecates: no user can act on it.
        warnings.filterwarnings(
            "ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning
        )
        silence_tips()
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            # The launcher of a sweep hands it on, wherever the job has run, once the other jobs have ended.
            function(config)
        else:
            _told(lambda: function(config))

    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode

    program = hydra.main(
        version_base="1.3", config_path="pkg://lightning_compress.conf", config_name=command
    )(job)
    sys.argv = [sys.argv[0], *words.options, *words.overrides]
    try:
        with _environment():
            _told(program)
    except HydraException as error:
        _fail(ConfigurationError(str(error)))
    finally:
        sys.argv = typed_to_program


@contextmanager
def _environment() -> Iterator[None]:
    """What other libraries read from the environment, while a command runs."""
    # Hydra would print tracebacks, and advice on debugging it, for what is raised in a job.
    wanted = {"HYDRA_FULL_ERROR": "1"}
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        # Lightning's tables are folded to 80 columns in a file.
        wanted["COLUMNS"] = str(FILE_WIDTH)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _looked_at(command: str, typed: list[str]) -> Words:
    """The words of a command, after whatever can be told of them without loading it has been told."""
    from lightning_compress.command_line.checking import check
    from lightning_compress.command_line.composing import compose_command
    from lightning_compress.command_line.help_page import page
    from lightning_compress.command_line.words import UnknownOptionError, sort_words

    try:
        words = sort_words(command, typed)
        if words.asks_for_help:
            _show(page(command, compose_command(command, words.overrides)))
            raise SystemExit(0)
        # With options such as --multirun or --config-dir it is for Hydra to say what the words mean.
        if not words.options:
            check(command, compose_command(command, words.overrides))
    except UnknownOptionError as error:
        _refuse(str(error))
    except CompressionError as error:
        _fail(error)
    return words


def _told(function: Callable[[], object]) -> None:
    """Call a command, and end with what is wrong, in a line, where that is no fault of this program."""
    from hydra.errors import InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    try:
        function()
    except CompressionError as error:
        _fail(error)
    except InstantiationException as error:
        _fail(_cause(error) or _of_arguments(error))
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        _fail(ConfigurationError(f"{key}{str(error).partition(chr(10))[0]}"))
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        _fail(CompressionError(f"{error.strerror}: {error.filename!r}"))


def _show(text: str) -> None:
    """Print a page, of which `head` or a pager may want only the beginning."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # What is left in the buffer must not fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(message: str) -> None:
    print(
        f"usage: lightning-compress COMMAND [KEY=VALUE ...]\nlightning-compress: {message}", file=sys.stderr
    )
    raise SystemExit(2)


def _fail(error: CompressionError) -> None:
    from rich.console import Console

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


def _of_arguments(error: InstantiationException) -> CompressionError:
    """What a class of another library says of its arguments."""
    key = (
        str(error).rpartition("full_key: ")[2].strip() if "full_key: " in str(error) else "the configuration"
    )
    cause = error.__cause__ or error
    return ConfigurationError(f"{key} cannot be used: {cause}")


if __name__ == "__main__":
    main()
