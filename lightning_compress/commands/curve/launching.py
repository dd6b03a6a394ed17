"""Points of a curve as jobs of one of Hydra's launchers: joblib, submitit, Ray."""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict, read_write

from lightning_compress.command_line.words import quoted
from lightning_compress.commands.curve.point_job import IN_TRAINING, PointJob
from lightning_compress.commands.curve.points import points_in_training
from lightning_compress.commands.jobs.folder import stored_config
from lightning_compress.commands.jobs.job import say
from lightning_compress.commands.jobs.state import FILE
from lightning_compress.counted import counted
from lightning_compress.durations import duration
from lightning_compress.import_messages import silence_tips
from lightning_compress.stopping import Stopped, Stops

_HERE = "basic"
"""Hydra's launcher that runs jobs in this process, one after the other."""

_LOOKED_EVERY = 2.0
"""Seconds between two looks at what launched points have finished."""


def chosen_launcher() -> str | None:
    """The launcher that points are given to; None where this process runs them itself.

    Within a sweep (`-m`) the launcher has begun this very process, and it starts no others.
    """
    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    name = hydra.runtime.choices.get("hydra/launcher")
    return None if name in (None, _HERE) or hydra.mode == RunMode.MULTIRUN else str(name)


class Launching:
    """Runs points by the launcher that Hydra's configuration names.

    Args:
        folder: Of the curve, which every job has to see under this path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def run(self, names: Sequence[str]) -> dict[str, str]:
        """Run points, and wait for all of them.

        Args:
            names: Of the points; whatever they measure stands in their folders.

        Returns:
            What went wrong, by point.
        """
        say(
            f"{counted(len(names), 'point')} for hydra/launcher={chosen_launcher()}: {', '.join(names)}; each writes "
            "log.txt in its folder"
        )
        config = self._config()
        loader = GlobalHydra.instance().config_loader()
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=loader, callbacks=Callbacks(config)),
            task_function=run_point,
            config=config,
        )
        words = [self._words(name) for name in names]
        try:
            with _telling(self.folder, names):
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
            f"+point={name}",
            f"hydra.sweep.dir={quoted(str(self.folder))}",
            f"hydra.sweep.subdir={quoted(f'{IN_TRAINING}/{name}')}",
        ]


@contextlib.contextmanager
def _telling(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Say what is left and about how long, each time that a point has ended elsewhere."""
    ended = threading.Event()

    def watch() -> None:
        began, left = time.monotonic(), list(names)
        while left and not ended.wait(_LOOKED_EVERY):
            done = [name for name in left if (folder / IN_TRAINING / name / FILE).is_file()]
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


def run_point(config: DictConfig) -> str:
    """Run one point of a curve in a process that a launcher has started.

    Args:
        config: Composed of what `Launching` has told the launcher.

    Returns:
        What went wrong; empty if all went well.
    """
    folder = Path(config.resume)
    # As the command does: classes of one's own are found from the folder that it was typed in.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    silence_tips()
    with _logged(folder / IN_TRAINING / config.point / "log.txt"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        stored = stored_config(folder, PointJob.command)
        (point,) = (point for point in points_in_training(stored.curve) if point.name == config.point)
        try:
            with Stops() as stops:
                PointJob(stored, point, folder, stops).run()
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
