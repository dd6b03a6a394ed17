"""Parts of a larger job as jobs of one of Hydra's launchers: joblib, submitit, Ray."""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict, read_write

from lightning_compress.command_line.words import quoted
from lightning_compress.commands.jobs.folder import stored_config
from lightning_compress.commands.jobs.job import say
from lightning_compress.counted import counted
from lightning_compress.durations import duration
from lightning_compress.errors import ConfigurationError
from lightning_compress.import_messages import silence_tips
from lightning_compress.stopping import Stopped, Stops

LOG = "log.txt"
"""The file in the folder of a part with what its process has printed."""

_HERE = "basic"
"""Hydra's launcher that runs jobs in this process, one after the other."""

_LOOKED_EVERY = 2.0
"""Seconds between two looks at what launched parts have finished."""


@dataclass(frozen=True)
class Parts:
    """What parts of a larger job are called, and where they lie.

    Attributes:
        noun: For messages, and the key of the configuration that tells a job which part it is.
        place: The folder below that of the larger job in which each part has a folder of its name.
        finished: The file in the folder of a part that is there once it is finished.
    """

    noun: str
    place: str
    finished: str

    def folder(self, whole: Path, name: str) -> Path:
        """Of a part.

        Args:
            whole: Of the larger job.
            name: Of the part.
        """
        return whole / self.place / name


def chosen_launcher() -> str | None:
    """The launcher that parts are given to; None where this process runs them itself.

    Within a sweep (`-m`) the launcher has begun this very process, and it starts no others.
    """
    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    name = hydra.runtime.choices.get("hydra/launcher")
    return None if name in (None, _HERE) or hydra.mode == RunMode.MULTIRUN else str(name)


def require_one_device(trainer: DictConfig, noun: str) -> None:
    """Refuse several devices for each part where a launcher runs the parts.

    Args:
        trainer: The configuration's `trainer`.
        noun: What a part is called.

    Raises:
        ConfigurationError: There is a launcher, and a part would use more than one device.
    """
    launcher = chosen_launcher()
    if launcher is not None and (trainer.devices != 1 or trainer.num_nodes != 1):
        raise ConfigurationError(
            f"hydra/launcher={launcher} gives each {noun} a process and a device of its own; "
            f"trainer.devices={trainer.devices} and trainer.num_nodes={trainer.num_nodes} must be 1 then"
        )


class Launching:
    """Runs parts by the launcher that Hydra's configuration names.

    Args:
        folder: Of the larger job, which every job has to see under this path.
        parts: What they are called.
        run: Runs one part in the process that the launcher has started, of the configuration that it has composed;
            returns what went wrong, or nothing. A function of a module, since other processes look it up.
    """

    def __init__(self, folder: Path, parts: Parts, run: Callable[[DictConfig], str]) -> None:
        self.folder = folder.absolute()
        self._parts = parts
        self._run = run

    def run(self, names: Sequence[str]) -> dict[str, str]:
        """Run parts, and wait for all of them.

        Args:
            names: Of the parts; whatever they find stands in their folders.

        Returns:
            What went wrong, by part.
        """
        say(
            f"{counted(len(names), self._parts.noun)} for hydra/launcher={chosen_launcher()}: {', '.join(names)}; "
            f"each writes {LOG} in its folder"
        )
        config = self._config()
        loader = GlobalHydra.instance().config_loader()
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=loader, callbacks=Callbacks(config)),
            task_function=self._run,
            config=config,
        )
        words = [self._words(name) for name in names]
        try:
            with self._telling(names):
                ended = launcher.launch(words, initial_job_idx=0)
            errors = [str(job.return_value) for job in ended]
        except Exception as error:
            # A worker was killed, or none could be had.
            errors = [f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"] * len(names)
        return {name: error for name, error in zip(names, errors, strict=True) if error}

    def _config(self) -> DictConfig:
        config = cast(DictConfig, copy.deepcopy(HydraConfig.instance().cfg))
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.sweep.dir = str(self.folder)
        return config

    def _words(self, name: str) -> list[str]:
        return [
            f"resume={quoted(str(self.folder))}",
            f"+{self._parts.noun}={quoted(name)}",
            f"hydra.sweep.dir={quoted(str(self.folder))}",
            f"hydra.sweep.subdir={quoted(f'{self._parts.place}/{name}')}",
        ]

    @contextlib.contextmanager
    def _telling(self, names: Sequence[str]) -> Iterator[None]:
        """Say what is left and about how long, each time that a part has ended elsewhere."""
        ended = threading.Event()

        def watch() -> None:
            began, left = time.monotonic(), list(names)
            while left and not ended.wait(_LOOKED_EVERY):
                done = [name for name in left if self._is_finished(name)]
                left = [name for name in left if name not in done]
                if done and left:
                    seconds = (time.monotonic() - began) * len(left) / (len(names) - len(left))
                    say(
                        f"{', '.join(done)}: finished; {len(left)} of {len(names)} left, about {duration(seconds)}"
                    )

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _is_finished(self, name: str) -> bool:
        return (self._parts.folder(self.folder, name) / self._parts.finished).is_file()


def run_launched(
    config: DictConfig, command: str, parts: Parts, work: Callable[[DictConfig, str, Path, Stops], None]
) -> str:
    """Run one part in a process that a launcher has started.

    Args:
        config: Composed of what `Launching` has told the launcher.
        command: The subcommand of the larger job.
        parts: What they are called.
        work: Does it, with the configuration of the larger job, the name of the part and the folder of the larger job.

    Returns:
        What went wrong; empty if all went well.
    """
    whole, name = Path(config.resume), str(config[parts.noun])
    # As the command does: classes of one's own are found from the folder that it was typed in.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    silence_tips()
    with _logged(parts.folder(whole, name) / LOG), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        try:
            with Stops() as stops:
                work(stored_config(whole, command), name, whole, stops)
        except Stopped as stop:
            return f"stopped by {stop.number.name}"
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return f"{type(error).__name__}: {error}"
    return ""


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Let this process, and those that it starts, print into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    before = [os.dup(number) for number in (1, 2)]
    with path.open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        _flush()
        for number, saved in zip((1, 2), before, strict=True):
            os.dup2(saved, number)
            os.close(saved)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
