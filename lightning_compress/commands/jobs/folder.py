"""The folder of a job: one of its own, or the one in which an earlier job stands."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lightning_compress.commands.jobs.launched import Agreement, launcher_environment
from lightning_compress.commands.jobs.processes import is_first
from lightning_compress.commands.jobs.state import FILE
from lightning_compress.errors import ConfigurationError
from lightning_compress.package.save import write_whole

if sys.platform != "win32":
    import fcntl

HYDRA = ".hydra"
"""Where a folder holds the configuration of its job, as Hydra's own folders do."""

_BEGUN_IN = "begun_in"
"""The file beside it with the folder in which the command was typed that began the job."""

COMMAND = "command"
"""The file beside it that names the subcommand whose job it is."""

_HOW_FAR = ("explore.dry_run",)
"""Keys that say how far a job goes and nothing of what it computes: whoever goes on with it may change them."""


@dataclass(frozen=True)
class RunFolder:
    """Where a job runs, and what it was told.

    Attributes:
        path: The folder, absolute.
        config: The configuration of the job.
        is_resumed: Whether a job has stood there before.
    """

    path: Path
    config: DictConfig
    is_resumed: bool


@contextlib.contextmanager
def run_folder(config: DictConfig, command: str) -> Iterator[RunFolder]:
    """The folder that a composed configuration asks for, held against other jobs until the end.

    With `resume` it is that folder, with the configuration that lies in it. Without, it is Hydra's, to which a number
    is added where the name comes from the time and another job has it.

    Args:
        config: The composed configuration.
        command: The subcommand whose job it is.

    Raises:
        ConfigurationError: The folder holds results, or is that of a running job; or with `resume`, it holds no job, or
            overrides were given that would change it.
    """
    hydra = HydraConfig.get()
    path = Path(hydra.runtime.output_dir)
    is_resumed = not OmegaConf.is_missing(config, "resume") and config.resume is not None
    environment = launcher_environment()
    agreement = None if environment is None else Agreement(environment)
    if not is_first():
        # The first process has chosen the folder. Lightning hands it on; other launchers do not.
        if agreement is not None:
            path = _instead_of(path, agreement.wait())
        yield RunFolder(path, stored_config(path, command) if is_resumed else config, is_resumed)
        return
    with contextlib.ExitStack() as held:
        with contextlib.nullcontext() if agreement is None else agreement.telling_failure():
            folder = _begin(path, config, command, held, is_resumed=is_resumed)
        if agreement is not None:
            agreement.tell(folder.path)
        yield folder


def _begin(
    path: Path, config: DictConfig, command: str, held: contextlib.ExitStack, *, is_resumed: bool
) -> RunFolder:
    """Choose a folder, on the first process, and hold it until `held` is closed."""
    hydra = HydraConfig.get()
    overrides = [str(override) for override in hydra.overrides.task]
    if is_resumed:
        stored = stored_config(path, command)
        _refuse_changes(path, config, stored, overrides)
        lock = lock_folder(path)
        if lock is None:
            raise ConfigurationError(
                f"the job in {shown(path)!r} is still running; end it before you resume it"
            )
        held.enter_context(lock)
        if _go_further(stored, config, overrides):
            write_whole(path / HYDRA / "config.yaml", OmegaConf.to_yaml(stored).encode())
        return RunFolder(path, stored, is_resumed)
    is_named = any(
        re.match(r"\+*hydra\.(run\.dir|sweep\.dir|sweep\.subdir)=", word) for word in hydra.overrides.hydra
    )
    path, lock = _claim(path) if not is_named else (path, _claim_named(path, command))
    held.enter_context(lock)
    write_whole(path / HYDRA / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides)).encode())
    write_whole(path / HYDRA / "config.yaml", OmegaConf.to_yaml(config).encode())
    write_whole(path / HYDRA / COMMAND, command.encode())
    write_whole(path / HYDRA / _BEGUN_IN, os.fsencode(Path.cwd()))
    _tell_hydra(path)
    return RunFolder(path, config, is_resumed)


def _instead_of(path: Path, chosen: Path) -> Path:
    """The folder chosen by the first process; the one that Hydra has made for this process goes."""
    if path != chosen:
        with contextlib.suppress(OSError):
            path.rmdir()
        _tell_hydra(chosen)
    return chosen


@contextlib.contextmanager
def where_it_began(folder: RunFolder) -> Iterator[None]:
    """Work where a resumed job was begun, so that the relative paths of its configuration are those of then.

    Where that folder is gone, they are looked for where the command was typed, which is said.
    """
    file = folder.path / HYDRA / _BEGUN_IN
    begun = Path(os.fsdecode(file.read_bytes())) if folder.is_resumed and file.is_file() else Path.cwd()
    if begun == Path.cwd():
        yield
        return
    if not begun.is_dir():
        if is_first():
            print(
                f"the job was begun in {str(begun)!r}, which is not there; relative paths of its configuration are "
                f"looked for in {str(Path.cwd())!r}"
            )
        yield
        return
    if is_first():
        print(f"relative paths are those of {str(begun)!r}, where the job was begun")
    here = Path.cwd()
    os.chdir(begun)
    try:
        yield
    finally:
        os.chdir(here)


def resume_command(path: Path, command: str) -> str:
    """The words that go on with the job of a subcommand in a folder."""
    return f"lightning-compress {command} resume={shlex.quote(shown(path))}"


def shown(path: Path) -> str:
    """A path as short as it can be typed where the command was."""
    typed_in = Path(HydraConfig.get().runtime.cwd) if HydraConfig.initialized() else Path.cwd()
    with contextlib.suppress(ValueError):
        return str(path.relative_to(typed_in))
    return str(path)


def stored_config(path: Path, command: str) -> DictConfig:
    """The configuration of the job that stands in a folder.

    Raises:
        ConfigurationError: There is none, or it is another subcommand's.
    """
    file, of_command = path / HYDRA / "config.yaml", path / HYDRA / COMMAND
    if not (file.is_file() and of_command.is_file()):
        # Hydra has made the folder if it was not there.
        with contextlib.suppress(OSError):
            path.rmdir()
        raise ConfigurationError(
            f"resume={shown(path)!r} holds no job: there is no {HYDRA}/config.yaml in it; give the folder that a "
            f"job of lightning-compress {command} has printed, such as outputs/ssd_resnet18/2026-01-31_12-00-00"
        )
    began = of_command.read_text(encoding="utf-8")
    if began != command:
        raise ConfigurationError(
            f"resume={shown(path)!r} holds a job of lightning-compress {began}; go on with it by\n"
            f"  {resume_command(path, began)}"
        )
    try:
        return cast(DictConfig, OmegaConf.load(file))
    except Exception as error:
        raise ConfigurationError(f"{str(file)!r} cannot be read: {error}") from error


def _refuse_changes(path: Path, config: DictConfig, stored: DictConfig, overrides: list[str]) -> None:
    """A job goes on as it began: what was typed beside `resume` may only say the same again."""
    file = path / HYDRA / "overrides.yaml"
    before = [str(word) for word in OmegaConf.load(file)] if file.is_file() else []
    changes = [
        word
        for word in overrides
        if not word.startswith(("resume=", "+resume=", *(f"{key}=" for key in _HOW_FAR)))
        and word not in before
        and not _same(config, stored, word)
    ]
    if changes:
        raise ConfigurationError(
            f"{' '.join(changes)} would change the job in {shown(path)!r}, and resume goes on with its own "
            "configuration; leave that out, or start a new job"
        )


def _go_further(stored: DictConfig, config: DictConfig, overrides: list[str]) -> bool:
    """Take what was typed beside `resume` of how far the job goes; whether that was anything."""
    typed = [key for key in _HOW_FAR if any(word.startswith(f"{key}=") for word in overrides)]
    for key in typed:
        OmegaConf.update(stored, key, OmegaConf.select(config, key))
    return bool(typed)


def _same(config: DictConfig, stored: DictConfig, override: str) -> bool:
    key, _, _ = override.lstrip("+~").partition("=")
    missing: Any = object()
    now, then = (OmegaConf.select(tree, key, default=missing) for tree in (config, stored))
    # A group's choice is no value: what it brings stands elsewhere.
    is_value = now is not missing and not isinstance(now, DictConfig) and now is not None
    return is_value and now == then


def _claim(path: Path) -> tuple[Path, IO[bytes]]:
    """The first of `path`, `path-2`, ... that no job has."""
    for number in range(1, 1000):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        candidate.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(candidate)
        if lock is not None and not _results_in(candidate):
            return candidate, lock
        if lock is not None:
            lock.close()
    raise ConfigurationError(
        f"{shown(path)!r} and 998 folders beside it have jobs; set hydra.run.dir to another"
    )


def _claim_named(path: Path, command: str) -> IO[bytes]:
    lock = lock_folder(path)
    if lock is None:
        raise ConfigurationError(
            f"another job is running in {shown(path)!r}; name another folder with hydra.run.dir=..."
        )
    found = _results_in(path)
    if found:
        lock.close()
        raise ConfigurationError(
            f"{shown(path)!r} holds results of a job ({', '.join(found[:3])}); go on with it by\n"
            f"  {resume_command(path, command)}\nor name another folder with hydra.run.dir=..."
        )
    return lock


def _results_in(path: Path) -> list[str]:
    """What a job has left there, apart from its configuration."""
    names = [FILE, "results.json", *sorted(package.name for package in path.glob("*.mlpackage"))]
    checkpoints = [str(file.relative_to(path)) for file in sorted(path.glob("*/checkpoints/*.ckpt"))]
    return [name for name in names if (path / name).exists()] + checkpoints


def lock_folder(path: Path) -> IO[bytes] | None:
    """Hold the folder until the file returned is closed or this process ends; None if another process holds it."""
    (path / HYDRA).mkdir(parents=True, exist_ok=True)
    file = (path / HYDRA / "lock").open("wb")
    if sys.platform == "win32":
        return file
    try:
        # Not flock: workers of a loader would inherit that lock, and they outlive a killed job for some seconds.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        return None
    except OSError:
        # Some network file systems lock no files.
        return file
    return file


def _tell_hydra(path: Path) -> None:
    """Let Hydra's configuration say where the job runs: Lightning starts the other processes of a fit with it."""
    hydra = cast(DictConfig, HydraConfig.instance().cfg)
    with read_write(hydra.hydra), open_dict(hydra.hydra):
        hydra.hydra.run.dir = os.fspath(path)
        hydra.hydra.runtime.output_dir = os.fspath(path)
